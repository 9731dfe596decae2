# %% Exercise 1: a filter


def kept(x, pairs, threshold):
    """(k,) True where the cosine of the two rows of x (n, d) of a pair (2, k) is > threshold."""
    return torch.cosine_similarity(x[pairs[0]], x[pairs[1]]) > threshold


# %% Exercise 2: how sharp?


def choose(accuracy, floor):
    """The highest threshold (key) whose validation accuracy (value) is ≥ floor; −1.0 if none."""
    return max((t for t, value in accuracy.items() if value >= floor), default=-1.0)


# %% Exercise 3: the attacker reads the paper


def spend(scores, allowed, budget):
    """Numbers (≤ budget,) of the candidates of the highest scores among the allowed ones."""
    numbers = allowed.nonzero().squeeze(1)
    best = scores[numbers].argsort(descending=True)[:budget]
    return numbers[best]


# %% Exercise 4: the number that may be published


def gain(defended, undefended):
    """Mean over seeds of the defense's gain in accuracy under the attack that is worst for each."""
    return (defended.amin(dim=1) - undefended.amin(dim=1)).mean()
