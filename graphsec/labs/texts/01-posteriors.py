# %% [markdown]
# # What a posterior gives away
#
# A company trains a graph neural network on a graph that is private: who calls whom, who owes whom.
# The graph stays at home. Customers may ask about a node and get the model's answer, a probability
# for each class: the *posterior*. In this lab you steal edges from nothing but these answers, and
# then find out how much of your success is real.
#
# It takes about 40 minutes. Fill in the cells whose first line says "Exercise", then run `graphsec
# lab 1 --check` beside this file: it tells right from wrong, with a hint. The cells below an
# exercise need its answer.
#
# **The threat.** The attacker may ask for the posterior of every node, and names pairs of nodes
# that are probably joined. He knows neither edges nor weights. Later we give him the features too.
#
# Source: He, Jia, Backes, Gong & Zhang, Stealing Links from Graph Neural Networks, USENIX Security
# 2021. Their simplest attacker, "attack 0", is the one you build.

# %%
import torch

import graphsec
from graphsec.stats import mean_interval, paired

torch.set_num_threads(1)

# %% [markdown]
# ## Why it works
#
# A layer of a GCN gives node v the weighted mean of what its neighbours and itself hold,
#
# $$h_v = \sum_{u \in N(v) \cup \{v\}} \frac{1}{\sqrt{(d_u + 1)(d_v + 1)}} W^\top x_u .$$
#
# Two nodes that are joined share a part of this sum: each is in the sum of the other, and in most
# graphs they have neighbours in common. What is computed from nearly the same sum comes out nearly
# the same. So *nodes that are answered alike are probably joined*.
#
# The data are 1,797 images of hand-written digits, each joined to those that look most like it.
# `play` draws the game before anything is trained: which pairs will be asked about. The trainer
# gets the graph, the attacker the pairs, and the `secret` is for the scorer alone. Keep it so: an
# attack that looks at the answer measures nothing.

# %%
graph = graphsec.load("digits-knn", seed=0)
known, secret = graphsec.play("links", graph, seed=0)
pairs = secret.question  # (2, k): half of them edges, half not, in random order
predictor = graphsec.fit(known, "gcn", training={"epochs": 100}, seed=0)
posteriors = predictor.predict_proba(known)  # (1797, 10)

# %% [markdown]
# ## Exercise 1: a score for each pair
#
# Give each pair a number that is higher the more alike its two posteriors are: minus the Euclidean
# distance of the two rows.

# %% Exercise 1: a score for each pair


def link_score(posteriors, pairs):
    """(k,) scores of pairs (2, k) of rows of posteriors (n, classes); higher: probably joined."""
    ...


# %% [markdown]
# ## Exercise 2: what the scores are worth
#
# The *AUC* is the probability that a random edge has a higher score than a random non-edge, where a
# tie counts half. 1/2 is guessing. It does not depend on a threshold, so nobody has to choose one.
# `scores` and `truth` have the same length; `truth` is 1 for an edge and 0 for none. Comparing
# every edge with every non-edge is quick enough for a few thousand of each, if you let torch do it:
# `a[:, None] > b[None, :]`.

# %% Exercise 2: what the scores are worth


def auc(scores, truth):
    """Probability that an edge's score is above a non-edge's; ties count half."""
    ...


# %% tags=["demo"]
few = slice(0, 6000)  # every edge against every non-edge: 3,000 times 3,000
truth = secret.answer[few]
print(f"posteriors: AUC {auc(link_score(posteriors, pairs[:, few]), truth):.3f}")

# %% [markdown]
# The AUC is about .955. Many papers stop here. Two questions remain.
#
# ## Exercise 3: what would he have known anyway?
#
# This graph joins images that look alike. Somebody who has the images needs no model to guess the
# edges. Every attack stands beside a *baseline*: the best simple thing that the same attacker could
# do without the victim. If he has the features, it is their similarity. Write it: the cosine of the
# two rows, the inner product over the product of the lengths. A row of zeros points nowhere, so
# give its pairs the score 0.

# %% Exercise 3: what would he have known anyway?


def feature_score(x, pairs):
    """(k,) cosine of the two rows of x (n, d) in each pair (2, k); 0 where a row is zero."""
    ...


# %% tags=["demo"]
print(f"features alone: AUC {auc(feature_score(known.x, pairs[:, few]), truth):.3f}")

# %% [markdown]
# The features alone reach .99, *more* than the posteriors. To an attacker who has the images, this
# attack on this model says nothing. To one who has only the answers, .955 is news. A number about
# privacy means something only beside what the attacker knew before.
#
# Is there a graph where the model itself is the leak? Take one with two communities in which
# features tell little about who is joined (a contextual block model), and several seeds, since one
# run is one draw. The seeds are paired: in each, both attackers are asked about the same pairs.

# %% tags=["demo"]
block = {"name": "csbm", "num_nodes": 600}
rows = []
for seed in range(5):
    hidden = graphsec.load(block, seed=seed)
    shown, answer = graphsec.play("links", hidden, seed=seed)
    victim = graphsec.fit(shown, "gcn", training={"epochs": 50}, seed=seed)
    asked, right = answer.question[:, few], answer.answer[few]
    by_posterior = auc(link_score(victim.predict_proba(shown), asked), right)
    rows.append((float(by_posterior), float(auc(feature_score(shown.x, asked), right))))
first, second = zip(*rows, strict=True)
print("posteriors", mean_interval(first).text(), " features", mean_interval(second).text())
print("difference", paired(first, second).difference.text())

# %% [markdown]
# Here the features reach .525 ± .011, the posteriors .712 ± .006. The interval of the difference
# (95 %, Student's, over five graphs) is far from 0: on this kind of graph *the model* gives edges
# away. Even so there is a ceiling. The answers mostly tell which community a node is in, and inside
# a community most pairs are not joined.
#
# ## Exercise 4: is half of the world an edge?
#
# The game asked about as many edges as non-edges. In the digits' graph that is generous. Work out
# the *base rate*: the share of all pairs of nodes (each pair once) that are edges. You find what
# you need in `graph.num_nodes` and `graph.num_edges`.

# %% Exercise 4: is half of the world an edge?
base_rate = ...

# %% tags=["demo"]
_, whole = graphsec.play({"name": "links", "ask": "all"}, graph, seed=0)
count = int(whole.answer.sum())
for name, scores in (
    ("posteriors", link_score(posteriors, whole.question)),
    ("features", feature_score(known.x, whole.question)),
):
    best = scores.topk(count).indices
    hits = whole.answer[best].double().mean()
    print(f"{name}: of the {count:,} likeliest pairs {hits:.1%} are edges")
print(f"guessing: {base_rate:.2%}")

# %% [markdown]
# Who must answer about *all* pairs, and names as many as there are edges, is right in about 15 % of
# them by the posteriors, and in 58 % by the features. The same attack had an AUC of .955. Both
# numbers are true. The AUC asks "which of these two?", and precision asks "is this one?". If one
# pair in 160 is an edge, a false alarm rate of some percent buries the true ones. Compared with
# guessing, 15 % is still 24 times better. Say which game was played whenever you quote a number.
#
# ## Exercise 5: a defense that is not
#
# "We only say the class, not the probabilities." An attacker adapts: he scores a pair by whether
# the two *answers* are the same. Write that score, 1 for the same class and 0 for different ones,
# from the list of predicted classes.

# %% Exercise 5: a defense that is not


def label_score(classes, pairs):
    """(k,) 1.0 where the two nodes of a pair have the same predicted class, else 0.0."""
    ...


# %% tags=["demo"]
classes = posteriors.argmax(1)
print(f"classes alone: AUC {auc(label_score(classes, pairs[:, few]), truth):.3f}")

# %% [markdown]
# .92 instead of .955: hiding the probabilities took little away. Had you kept the old attack and
# fed it rounded answers, you could have claimed more. A defense is judged by an attacker who knows
# it (lab 5 is about that).
#
# What does help? A model that uses no edges leaks none beyond what features and labels say, at the
# price of what edges are worth. Noise on the edges with a proof (`edge-rand` and `lap-graph` in
# `graphsec ls defenses`) bounds what *any* attacker learns of one edge, and costs accuracy;
# docs/privacy.md says what is proved, and lab 6 how such a claim is tested.
#
# ## What to remember
#
# - Answers are functions of the neighbourhood, so alike answers hint at shared neighbourhoods.
# - Put the same attacker without the victim beside every attack: that baseline may be better.
# - Balanced questions flatter. Say the game, the base rate, and the interval over seeds.
# - Weaker answers call for another attack, not for the same attack.
#
# graphsec's `link-stealing` has eight distances, features, partial and shadow graphs. Try
# `graphsec.attack("link-stealing", predictor, known, **secret.shown)` and `graphsec.score`.
