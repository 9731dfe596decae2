# %% Exercise 1: a score for each pair


def link_score(posteriors, pairs):
    """(k,) scores of pairs (2, k) of rows of posteriors (n, classes); higher: probably joined."""
    return -(posteriors[pairs[0]] - posteriors[pairs[1]]).norm(dim=1)


# %% Exercise 2: what the scores are worth


def auc(scores, truth):
    """Probability that an edge's score is above a non-edge's; ties count half."""
    edges, others = scores[truth == 1][:, None], scores[truth == 0][None, :]
    return ((edges > others).double() + (edges == others).double() / 2).mean()


# %% Exercise 3: what would he have known anyway?


def feature_score(x, pairs):
    """(k,) cosine of the two rows of x (n, d) in each pair (2, k); 0 where a row is zero."""
    a, b = x[pairs[0]], x[pairs[1]]
    lengths = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(lengths > 0, (a * b).sum(1) / lengths.clamp(min=1e-30), 0.0)


# %% Exercise 4: is half of the world an edge?
base_rate = graph.num_edges / (graph.num_nodes * (graph.num_nodes - 1) / 2)

# %% Exercise 5: a defense that is not


def label_score(classes, pairs):
    """(k,) 1.0 where the two nodes of a pair have the same predicted class, else 0.0."""
    return (classes[pairs[0]] == classes[pairs[1]]).double()
