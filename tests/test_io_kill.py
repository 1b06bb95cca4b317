"""Checkpoints under SIGKILL, SIGTERM and a full disk, and from eight devices onto two: each in processes of its own."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

import fnet
from fnet import io

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits of Unix")


def python(code: str, *args: object, **env: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | env)


def test_sigkill_in_200_saves_never_loses_the_last_good_checkpoint(tmp_path):
    """A process forks children that save again and again, and kills them until 200 were in the middle of a file."""
    done = python(
        """
        import os, random, signal, struct, sys, time, warnings
        import numpy as np
        from fnet import io
        warnings.simplefilter("error")
        folder, rng, last, middle, kill = sys.argv[1], random.Random(0), 0, 0, 0
        tree = lambda step: {"w": np.full(200_000, step, np.int32), "step": step}
        while middle < 200:
            kill += 1
            read, write = os.pipe()
            pid = os.fork()
            if not pid:
                background = bool(kill % 2)
                ckpt = io.Checkpoints(folder, keep=2, background=background)
                step = ckpt.steps()[-1] if ckpt.steps() else 0
                os.write(write, struct.pack("<q", step))
                while True:
                    step += 1
                    ckpt.save(tree(step), step=step)
                    os.write(write, struct.pack("<q", step - background))  # on the disk for sure
            os.close(write)
            os.read(read, 8)
            time.sleep(rng.random() * 0.01)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            reported = os.read(read, 1 << 20)
            os.close(read)
            last = max(last, struct.unpack("<q", reported[-8:])[0] if reported else 0)
            middle += any(name.endswith(".tmp") for name in os.listdir(folder))
            ckpt = io.Checkpoints(folder, keep=2)
            assert not any(name.endswith(".tmp") for name in os.listdir(folder))
            if last:
                found = ckpt.restore()
                assert found["step"] >= last and np.all(found["w"] == found["step"]), (found, last)
        ckpt.save(tree(10**6), step=10**6)
        ckpt.wait()
        assert len(ckpt.steps()) == 2  # what was killed before it removed the oldest is made up for
        print(kill, last)
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    kills, last = map(int, done.stdout.split())
    assert kills > 200 and last > 0, done.stdout  # some saves ended well


def test_the_interpreter_waits_for_a_save_in_the_background(tmp_path):
    done = python(
        """
        import sys, time, numpy as np
        from fnet import io
        from fnet.io import writing
        real = writing.write_all
        def slow(fd, data):
            time.sleep(0.01)
            real(fd, data)
        writing.write_all = slow
        io.Checkpoints(sys.argv[1]).save({f"w{i}": np.full(1 << 19, i) for i in range(6)}, step=1)
        """,
        tmp_path,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert io.Checkpoints(tmp_path).restore()["w5"].tolist() == [5] * (1 << 19)


TRAIN = """
    import os, signal, sys, time
    import jax, jax.numpy as jnp, numpy as np
    from fnet import data, functional as F, io, nn, optim, train
    x = np.eye(4, dtype="float32")
    loader = data.DataLoader(data.ArrayDataset(x, np.arange(4)), batch_size=1, shuffle=True)
    model, opt = nn.Linear(4), optim.sgd(0.1)
    run = train.start(model, opt, jax.random.key(0), x)
    step = train.make_step(train.supervised(model, F.cross_entropy), opt)
    ckpt = io.Checkpoints(sys.argv[1], every=10**6, sigterm=True)
"""


def test_sigterm_saves_the_step_and_ends_as_it_would_have(tmp_path):
    code = textwrap.dedent(TRAIN) + textwrap.dedent("""
        count = 0
        def slow(run, batch):
            global count
            count += 1
            if count == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(run, batch)
        train.fit(slow, run, loader, steps=100, every=100, callbacks=[ckpt], progress=False)
        print("never")
    """)
    done = python(code, tmp_path)
    assert done.returncode == -signal.SIGTERM and not done.stdout, done.stderr
    assert io.Checkpoints(tmp_path).steps() == [7] and int(fnet.load(io.Checkpoints(tmp_path).path(7)).step) == 7


def test_a_second_sigterm_ends_at_once_and_close_gives_it_back(tmp_path):
    code = textwrap.dedent(TRAIN) + textwrap.dedent("""
        ckpt.close()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        seen = []
        signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
        ckpt = io.Checkpoints(sys.argv[1], sigterm=True)
        os.kill(os.getpid(), signal.SIGTERM)
        assert not seen and ckpt.due(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [1]
        ckpt = io.Checkpoints(sys.argv[1], sigterm=True)
        os.kill(os.getpid(), signal.SIGTERM)
        ckpt.save(run)
        assert seen == [1, 1] and ckpt.steps() == [0]
        print("fine")
    """)
    done = python(code, tmp_path)
    assert done.stdout == "fine\n", done.stderr


def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(tmp_path):
    """The limit on a file's size stands in for the end of the disk."""
    done = python(
        """
        import resource, sys, warnings, numpy as np
        from fnet import io
        warnings.simplefilter("error")
        ckpt = io.Checkpoints(sys.argv[1], keep=1)
        ckpt.save({"w": np.arange(10)}, step=1)
        ckpt.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        ckpt.save({"w": np.ones(1 << 20)}, step=2)
        try:
            ckpt.close()
        except OSError as error:
            print(error)
        assert ckpt.restore()["w"].tolist() == list(range(10)) and ckpt.steps() == [1]
        ckpt.save({"w": np.ones(1 << 20)}, step=3)  # nobody asks how that went
        """,
        tmp_path,
    )
    assert "cannot save" in done.stdout and "step-00000002.safetensors: File too large" in done.stdout, done
    assert "the checkpoints of steps [1] stay" in done.stdout, done.stdout
    assert "an error in the background that nobody waited for" in done.stderr and "step-00000003" in done.stderr
    assert done.returncode == 0 and sorted(os.listdir(tmp_path)) == ["checkpoints.json", "step-00000001.safetensors"]


MESH = """
    import sys, tracemalloc
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec as P
    from fnet import io, optim, train
    count = len(jax.devices())
    mesh = jax.make_mesh((count // 2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    def placed(spec, value):
        return jax.device_put(value, NamedSharding(mesh, P(*spec)))
    params = {"w": placed(("data", "model"), jnp.arange(1024.0 * 1024).reshape(1024, 1024)),
              "half": placed((None, "model"), jnp.arange(64).reshape(8, 8).astype("bfloat16")),
              "mask": placed(("data",), jnp.arange(8) % 2 == 0), "bias": placed((), jnp.arange(8.0))}
    opt = optim.adamw(0.1)
    run = train.TrainState(params, {}, jax.jit(opt.init)(params), jax.random.key(3), jnp.int32(5))
"""


def test_saved_on_eight_devices_restored_on_two_and_on_one(tmp_path):
    save = textwrap.dedent(MESH) + textwrap.dedent("""
        with io.Checkpoints(sys.argv[1]) as ckpt:
            ckpt.save(run)
        print(count)
    """)
    restore = textwrap.dedent(MESH) + textwrap.dedent("""
        again = io.Checkpoints(sys.argv[1]).restore(like=run)
        for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(run), strict=True):
            assert x.dtype == y.dtype and x.sharding.is_equivalent_to(y.sharding, x.ndim), (x, y)
            assert jnp.all(x == y), (x, y)
        path = io.Checkpoints(sys.argv[1]).path(5)
        tracemalloc.start()
        part = io.load(path, like={"params": {"w": params["w"]}}, select="params.w", verify=False)["params"]["w"]
        peak = tracemalloc.get_traced_memory()[1]
        assert part.sharding == params["w"].sharding and jnp.all(part == params["w"])
        assert peak < 1.2 * part.nbytes, (peak, part.nbytes)  # slices of the mapped file; never the whole beside them
        print(count)
    """)
    for code, devices in ((save, 8), (restore, 2), (restore, 4)):
        done = python(code, tmp_path, XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}")
        assert done.stdout == f"{devices}\n", done.stderr
    run = io.Checkpoints(tmp_path).restore()  # no template, one device
    assert run.params["w"].shape == (1024, 1024) and len(run.params["w"].devices()) == 1 and int(run.step) == 5
