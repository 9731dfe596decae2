# %% Exercise 1: the margin


def margin(logits, y):
    """(k,) the true class's logit over the best other one, of logits (k, classes), labels (k,)."""
    true = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], -torch.inf)
    return true - others.max(dim=1).values


# %% Exercise 2: five at once


def best_flips(slope, budget):
    """At most `budget` numbers of candidates, as a list, whose flips lower the margin most."""
    return [i for i in slope.argsort()[:budget].tolist() if slope[i] < 0]


# %% Exercise 3: one after the other


def greedy(gradient_of, budget):
    """List of at most `budget` different candidates, the gradient taken anew before each."""
    flipped = []
    for _ in range(budget):
        slope = gradient_of(flipped).clone()
        slope[flipped] = torch.inf
        best = int(slope.argmin())
        if slope[best] >= 0:
            break
        flipped.append(best)
    return flipped


# %% Exercise 4: how sure is that?


def wilson(k, n):
    """(low, high), the 95 % interval of a share of which k successes of n were seen."""
    z, p = 1.96, k / n
    centre = p + z**2 / (2 * n)
    half = z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    return (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)
