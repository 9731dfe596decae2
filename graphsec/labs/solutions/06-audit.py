# %% Exercise 1: clip


def clip(x, C):
    """Rows of x (n, d), those longer than C scaled down to length C; rows of 0 stay."""
    length = x.norm(dim=1, keepdim=True)
    return x * (C / length.clamp(min=C))


# %% Exercise 2: how far can the sums move?


def sensitivity(K, C):
    """Largest Euclidean change of all sums together, when one node of degree ≤ K goes."""
    return math.sqrt(K) * C


# %% Exercise 3: the best test


def score(seen, row):
    """A number, higher where v is likelier in: seen (K, d) inner product with v's row in each."""
    return (seen @ row).sum()


# %% Exercise 4: what errors refute


def refuted_epsilon(tpr, fpr, delta):
    """The ε that a test of these rates refutes everything below of, at least 0; fpr > 0."""
    return max(0.0, math.log((tpr - delta) / fpr)) if tpr > delta else 0.0
