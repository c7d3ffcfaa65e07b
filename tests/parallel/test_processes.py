"""Where a process stands is told by what started it, and half of an answer is refused."""

import http.server
import threading

import pytest

from t5sft import errors
from t5sft.parallel import metadata, processes


def find(environ=None, **given):
    return processes.find(environ=environ or {}, **given)


def test_alone_is_nothing():
    assert find() is None
    assert find({"JAX_NUM_PROCESSES": "1", "SLURM_JOB_ID": "7"}) is None
    assert find(slurm(SLURM_STEP_NUM_TASKS="1")) is None
    assert find(slurm(), num_processes=1) is None


def test_given_by_flags_or_by_the_environment():
    place = find(coordinator="10.0.0.1:7000", num_processes=4, process_id=3)
    assert place[:4] == (4, 3, "10.0.0.1:7000", "given")
    told = {"JAX_COORDINATOR_ADDRESS": "a:7000", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "0"}
    assert find(told)[:3] == (4, 0, "a:7000")
    assert find(told, process_id=2).process_id == 2  # a flag wins
    assert find(slurm() | told).source == "given"


@pytest.mark.parametrize(
    "environ, given, told",
    [
        ({}, {"coordinator": "a:1"}, "--num_processes, --process_id not given"),
        ({"JAX_NUM_PROCESSES": "2"}, {"process_id": 1}, "--coordinator not given"),
        ({"JAX_NUM_PROCESSES": "two"}, {}, "JAX_NUM_PROCESSES is 'two'"),
        ({}, {"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "process_id is 2"),
        ({}, {"coordinator": "a", "num_processes": 2, "process_id": 0}, "coordinator is 'a'"),
        ({}, {"coordinator": "a:65535", "num_processes": 2, "process_id": 0}, "below 65535"),
    ],
)
def test_a_place_told_by_halves_is_refused(environ, given, told):
    with pytest.raises(errors.DistributedError, match=told):
        find(environ, **given)


@pytest.mark.parametrize("job, index, process", [("0", "0", 0), ("0", "3", 3), ("1", "2", 6)])
def test_a_pod_of_a_jobset_is_numbered_through(job, index, process):
    environ = {
        "JAX_COORDINATOR_ADDRESS": "tune-workers-0-0.tune:8476",
        "JAX_NUM_PROCESSES": "8",
        "NUM_JOBS": "2",
        "JOB_INDEX": job,
        "JOB_COMPLETION_INDEX": index,
    }
    assert find(environ)[:2] == (8, process)


def slurm(**more):
    return {
        "SLURM_JOB_ID": "4242",
        "SLURM_STEP_NODELIST": "gpu[03-06],big1",
        "SLURM_STEP_NUM_TASKS": "5",
        "SLURM_STEP_TASKS_PER_NODE": "1(x5)",
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
        "CUDA_VISIBLE_DEVICES": "0,1,2,3",
        **more,
    }


def test_slurm():
    assert find(slurm()) == (5, 2, "gpu03:28484", "Slurm job 4242", None)
    # Several processes of a node that all see its GPUs take one each.
    shared = slurm(SLURM_STEP_TASKS_PER_NODE="4(x5)", SLURM_LOCALID="3")
    assert find(shared).local_devices == (3,)
    assert find(shared | {"CUDA_VISIBLE_DEVICES": "3"}).local_devices is None
    batch = {k: v for k, v in slurm().items() if not k.startswith("SLURM_STEP")}
    assert find(batch) is None  # inside sbatch, but not started by srun: one process


@pytest.mark.parametrize(
    "nodes, first",
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("node[001-015],b", "node001"),
        ("node[3,7-9]", "node3"),
        ("r[1-2]n[05-07]-x,c", "r1n05-x"),
    ],
)
def test_the_first_node(nodes, first):
    assert processes.first_node(nodes) == first


def gke(worker, slices=1, of=0):
    environ = {"TPU_WORKER_HOSTNAMES": "h0,h1,h2,h3", "TPU_WORKER_ID": str(worker)}
    if slices > 1:
        environ |= {
            "MEGASCALE_NUM_SLICES": str(slices),
            "MEGASCALE_SLICE_ID": str(of),
            "MEGASCALE_COORDINATOR_ADDRESS": "first:8080",
        }
    return environ


def test_tpus_of_kubernetes_agree_with_jax(monkeypatch):
    """JAX finds the same by itself, inside `jax.distributed`: it is asked here."""
    clusters = pytest.importorskip("jax._src.clusters.cloud_tpu_cluster")
    for environ in (gke(0), gke(3), gke(1, 2, 1), gke(3, 2, 0)):
        with monkeypatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            patch.setenv("TPU_SKIP_MDS_QUERY", "1")
            patch.setattr(clusters.BaseTpuCluster, "wait_for_coordinator", lambda *_: None)
            patch.setattr(clusters, "get_tpu_env_value", environ.get)
            theirs = clusters.GkeTpuCluster
            place = find(environ)
            assert place.num_processes == theirs.get_process_count()
            assert place.process_id == theirs.get_process_id()
            assert place.coordinator == theirs.get_coordinator_address(1, None)
    assert find({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}) is None


@pytest.fixture
def server():
    """A metadata server; its attributes may be changed."""
    attributes = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802  the name that http.server calls
            value = attributes.get(self.path.rpartition("/")[2])
            is_google = self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if value and is_google else 404)
            self.end_headers()
            self.wfile.write((value or "").encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield attributes, {"GCE_METADATA_IP": f"127.0.0.1:{http_server.server_port}"}
        http_server.shutdown()


def test_a_tpu_vm_is_told_by_its_metadata(server, monkeypatch):
    attributes, environ = server
    monkeypatch.setattr(metadata, "has_tpu", lambda *_: True)
    assert find(environ) is None  # a TPU without slice: one host
    attributes["agent-worker-number"] = "1"
    attributes["worker-network-endpoints"] = "unknown:unknown:10.0.0.2,unknown:unknown:10.0.0.3"
    assert find(environ)[:4] == (2, 1, "10.0.0.2:8482", "TPU metadata")
    attributes["worker-network-endpoints"] = "worker-0,worker-1"
    attributes["tpu-env"] = (
        "ACCELERATOR_TYPE: 'v5litepod-16'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
        "MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.9'\n"
    )
    assert find(environ)[:3] == (4, 3, "10.0.0.9:8482")


def test_a_metadata_server_that_is_silent_is_an_error(monkeypatch):
    monkeypatch.setattr(metadata.time, "sleep", lambda _: None)
    with pytest.raises(errors.DistributedError, match="did not tell of the slice"):
        metadata.read({"GCE_METADATA_IP": "127.0.0.1:9"})


def test_a_tpu_is_told_by_its_devices_and_libtpu(tmp_path, monkeypatch):
    monkeypatch.setattr(metadata.importlib.util, "find_spec", lambda _: object())
    assert not metadata.has_tpu({}, str(tmp_path))
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/accel0").touch()
    assert metadata.has_tpu({}, str(tmp_path))
    assert not metadata.has_tpu({"JAX_PLATFORMS": "cpu"}, str(tmp_path))
    assert not metadata.has_tpu({"TPU_SKIP_MDS_QUERY": "1"}, str(tmp_path))
    monkeypatch.setattr(metadata.importlib.util, "find_spec", lambda _: None)
    assert not metadata.has_tpu({}, str(tmp_path))
