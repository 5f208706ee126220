"""What 10,000 cases take on 1, 8 and 64 workers, from measured pieces; used by `distributed.py`.

Workers do registrations and inferences side by side; one driver hands out tasks and saves results;
one network link carries scans to the workers and results back. The slowest of the three decides.
Nothing else is assumed: no worker waits for another, and the cluster's disks keep up.
"""

from __future__ import annotations

from tables import markdown

CASES = 10_000
PAIRS = 3  # registrations per case: atlases that vote
WORKERS = (1, 8, 64)  # one per GPU, where the pieces were measured on one
LINK_MB_S = 110.0  # what a link of 1 Gbit/s carries
HOUR = 3600.0


def model_table(rows: list[dict]) -> str:
    """A Markdown table, and the sentences on what is full first."""
    piece = {row["piece"]: row for row in rows if row["part"] == "pieces"}
    overhead = [row["overhead_ms"] for row in rows if row["part"] == "small"]
    missing = {"register", "predict", "save"} - set(piece)
    if missing or not overhead:
        raise SystemExit("the file lacks parts; run --parts pieces,small first")
    per_task_s = overhead[-1] / 1000
    worker_s = PAIRS * piece["register"]["seconds"] + piece["predict"]["seconds"]
    driver_s = (PAIRS + 1) * per_task_s + piece["save"]["seconds"]
    traffic_mb = case_traffic_mb(piece)
    lines, full = [], {}
    for workers in WORKERS:
        hours = {
            "workers": CASES * worker_s / workers / HOUR,
            "driver": CASES * driver_s / HOUR,
            "network": CASES * traffic_mb / LINK_MB_S / HOUR,
        }
        full[workers] = max(hours, key=lambda name: hours[name])
        lines.append(
            [
                str(workers),
                f"{max(hours.values()):.1f}",
                *(f"{value:.1f}" for value in hours.values()),
                full[workers],
            ]
        )
    head = ["workers", "hours", "workers alone", "driver alone", "network alone", "full first"]
    sizes = (
        f"Measured: {piece['register']['method']}, {piece['predict']['method']}. "
        f"Per case {worker_s:.1f} s on a worker ({PAIRS} registrations, one inference), "
        f"{driver_s:.2f} s in the driver, {traffic_mb:.0f} MB over the network. "
        f"In all {CASES * traffic_mb / 1e6:.1f} TB of traffic, "
        f"{CASES * piece['register']['file_mb'] / 1e6:.2f} TB of scans and "
        f"{CASES * kept_mb(piece) / 1e6:.2f} TB of what is kept."
    )
    edges = (
        f"The driver is full from {worker_s / driver_s:.0f} workers on, a link of 1 Gbit/s from "
        f"{worker_s / (traffic_mb / LINK_MB_S):.0f} on."
    )
    return "\n\n".join([markdown(head, lines), sizes, edges])


def case_traffic_mb(piece: dict) -> float:
    """Scans out for each task, results back; no file that a worker still has is counted out."""
    register, predict = piece["register"], piece["predict"]
    out = PAIRS * 2 * register["file_mb"] + predict["file_mb"]
    back = PAIRS * register["result_mb"] + predict["result_mb"]
    return out + back


def kept_mb(piece: dict) -> float:
    """What the study keeps per case: registrations and the prediction."""
    return PAIRS * piece["register"]["result_mb"] + piece["save"]["kept_mb"]
