"""How many actors fit: cores, GPUs and memory of each node."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionward.errors import DataError
from visionward.scan.actor_sizes import ActorNeeds, Node, chosen_actors, chosen_threads, nodes_of, wants_gpu
from visionward.scan.model_memory import ModelMemory
from visionward.scan.options import ScanOptions

GB = 10**9


def _node(name, cpus, gpus=0, memory=64 * GB):
    return Node(name, cpus, gpus, memory)


def test_threads_and_actors_are_derived_from_the_nodes():
    nodes = [_node("a", 16), _node("b", 8)]
    assert chosen_threads(nodes, None, None) == 8
    assert chosen_threads(nodes, 4, None) == 4
    assert chosen_threads(nodes, 5, None) == 2
    assert chosen_threads(nodes, 100, None) == 1
    assert chosen_threads(nodes, None, 3) == 3
    assert chosen_actors(nodes, ActorNeeds(8, 0, 2 * GB, 8 * GB), None) == 2
    # A node that is too small has none.
    assert chosen_actors([*nodes, _node("c", 8, memory=9 * GB)], ActorNeeds(8, 0, 2 * GB, 8 * GB), None) == 2


def test_actors_that_do_not_fit_name_the_nodes_and_what_they_lack():
    nodes = [_node("a", 16, 1), _node("b", 16, 1, 13 * GB), *(_node(name, 4, 8) for name in "cdef")]
    needs = ActorNeeds(2, 0.25, 2 * GB, 8 * GB)
    assert [needs.fitting(node) for node in nodes[:3]] == [(4, "GPUs"), (2, "memory"), (2, "CPUs")]
    with pytest.raises(DataError) as caught:
        chosen_actors(nodes, needs, 15)
    assert str(caught.value) == (
        "15 actors with 2 threads, 0.25 GPUs and 2.00 GB of memory each do not fit the Ray cluster: node a holds 4 by "
        "its GPUs, node b holds 2 by its memory, node c holds 2 by its CPUs, 3 more nodes hold 6; use fewer --actors, "
        "--threads or --gpus-per-actor, or a smaller --n-ctx"
    )
    with pytest.raises(DataError, match=r"^an actor with 2 threads, 2 GPUs and .* does not fit .* holds 0 by its GPUs"):
        chosen_actors([_node("a", 16, 1)], ActorNeeds(2, 2, 2 * GB, 8 * GB), None)


@given(
    st.lists(st.builds(_node, st.just("n"), st.integers(1, 64), st.integers(0, 8), st.integers(1, 100 * GB))),
    st.builds(
        ActorNeeds, st.integers(1, 64), st.sampled_from([0, 0.5, 1]), st.integers(1, 20 * GB), st.integers(0, GB)
    ),
)
def test_actors_that_fit_take_no_more_than_there_is(nodes, needs):
    for node in nodes:
        number, _ = needs.fitting(node)
        assert number * needs.threads <= node.cpus
        assert number * needs.gpus <= node.gpus or not needs.gpus
        assert number == 0 or number * needs.memory + needs.shared <= node.memory


def test_nodes_that_cannot_have_actors_are_left_out():
    def listed(name, *, alive=True, **resources):
        return {"NodeManagerHostname": name, "Alive": alive, "Resources": resources}

    found = nodes_of(
        [listed("a", CPU=4.0, memory=5.0), listed("b", alive=False, CPU=4.0), listed("c"), listed("d", CPU=1)]
    )
    assert found == [Node("a", 4.0, 0.0, 5.0), Node("d", 1, 0.0, float("inf"))]
    with pytest.raises(DataError, match="no node with a CPU"):
        nodes_of([listed("c")])


def test_gpus_are_wanted_if_the_options_name_one(options):
    for engine, wanted in (({}, False), ({"device": "cpu"}, False), ({"gpu_layers": 0}, False)):
        assert wants_gpu(ScanOptions(options.pair, engine)) is wanted
    for engine in ({"device": "CUDA0"}, {"vision_device": "CUDA0"}, {"gpu_layers": 9}):
        assert wants_gpu(ScanOptions(options.pair, engine))


def test_memory_is_that_of_the_files_and_of_a_process(options):
    found = ModelMemory.of(options)
    assert found.shared == sum(path.stat().st_size for path in options.pair)
    packed = ModelMemory.of(ScanOptions(options.pair, {**options.engine, "kernels": "packed"}))
    assert packed.private - found.private == options.pair[0].stat().st_size
    larger = ModelMemory.of(ScanOptions(options.pair, {**options.engine, "n_ctx": 8192}))
    assert larger.private > found.private
