# Workers count in shared memory and report through a queue; none may lose or repeat a step.
import multiprocessing
import time

WORKERS = 4


def work(number, queue, counts):
    while True:
        counts[number] += 1
        queue.put((number, counts[number]))
        time.sleep(0.05)


if __name__ == "__main__":
    queue = multiprocessing.Queue()
    counts = multiprocessing.Array("l", WORKERS)
    workers = [
        multiprocessing.Process(target=work, args=(number, queue, counts))
        for number in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    seen = [0] * WORKERS
    while True:
        number, count = queue.get()
        if count != seen[number] + 1:
            print("worker", number, "went from", seen[number], "to", count, flush=True)
        seen[number] = count
        if number == 0:
            print("step", count, flush=True)
