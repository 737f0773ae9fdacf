/* Counts, with its count in memory of its own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int main(void)
{
	struct timespec pause = { 0, 50000000 };
	size_t size = 8 << 20;
	unsigned char *memory = malloc(size);
	memset(memory, 7, size);
	for (int count = 0;; count++) {
		for (size_t at = 0; at < size; at += 4096)
			if (memory[at] != 7)
				printf("memory has changed at %zu\n", at);
		printf("count %d\n", count);
		fflush(stdout);
		nanosleep(&pause, NULL);
	}
}
