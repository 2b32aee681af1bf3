"""FrEIA (Ardizzone et al. 2018-2022)."""

from floors import convnet, mlp, normal_log_prob
from FrEIA.framework import GraphINN, InputNode, Node, OutputNode, SequenceINN
from FrEIA.modules import AllInOneBlock, GLOWCouplingBlock, IRevNetDownsampling, Split

from peers.model import CHANNELS, DEPTH, FEATURES, HIDDEN, LAYERS, LEVELS, SHAPE, Model


def _model(network, note):
    def log_prob(x):
        z, log_det = network(x)
        return sum(map(normal_log_prob, z if isinstance(z, tuple | list) else [z])) + log_det

    return Model(network, log_prob, lambda x: network(x)[0], lambda z: network(z, rev=True)[0], note)


def realnvp(layers=LAYERS):
    network = SequenceINN(FEATURES)
    for _ in range(layers // 2):
        network.append(GLOWCouplingBlock, subnet_constructor=lambda a, b: mlp(a, b, HIDDEN))
    return _model(network, "two couplings a block; arctan in place of tanh; log_det in the inverse too")


def all_in_one(layers=LAYERS):
    """The block that their tutorial builds flows of: one coupling, a global affine map and a random permutation."""
    network = SequenceINN(FEATURES)
    for _ in range(layers):
        network.append(AllInOneBlock, subnet_constructor=lambda a, b: mlp(a, b, HIDDEN))
    return _model(network, "one coupling a block, permuted at random; arctan in place of tanh")


def glow():
    options = {"subnet_constructor": lambda a, b: convnet(a, b, CHANNELS), "permute_soft": True}
    nodes, outputs = [InputNode(*SHAPE, name="x")], []
    current = nodes[0]
    for level in range(LEVELS):
        nodes.append(Node(current, IRevNetDownsampling, {}))
        for _ in range(DEPTH):
            nodes.append(Node(nodes[-1], AllInOneBlock, options))
        current = nodes[-1]
        if level < LEVELS - 1:
            half = current.output_dims[0][0] // 2
            nodes.append(Node(current, Split, {"section_sizes": [half, half], "dim": 0}))
            outputs.append(nodes[-1].out1)
            current = nodes[-1].out0
    outputs.append(current)
    nodes += [OutputNode(output, name=f"z{index}") for index, output in enumerate(outputs)]
    note = "1 x 1 convolutions fixed at a rotation, not trained; log_det in the inverse too"
    return _model(GraphINN(nodes), note)
