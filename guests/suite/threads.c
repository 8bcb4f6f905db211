/* SPDX-License-Identifier: Apache-2.0 */
#include "suite.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

enum { THREADS = 4, ROUNDS = 20000 };

static atomic_ulong added, swapped;
static unsigned long guarded, in_turn;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static sem_t full, empty;
static unsigned turn;
static _Thread_local unsigned long own;

static void *work(void *arg)
{
	unsigned number = (unsigned)(uintptr_t)arg;
	for (unsigned i = 0; i < ROUNDS; i++) {
		atomic_fetch_add(&added, number + 1);
		unsigned long old = atomic_load(&swapped);
		while (!atomic_compare_exchange_weak(&swapped, &old, old * 1 + 7))
			;
		pthread_mutex_lock(&mutex);
		guarded++;
		pthread_mutex_unlock(&mutex);
		own += i;
	}
	pthread_barrier_wait(&barrier);
	for (unsigned i = 0; i < 200; i++) {
		pthread_mutex_lock(&mutex);
		while (turn % THREADS != number)
			pthread_cond_wait(&changed, &mutex);
		in_turn = in_turn * 31 + number;
		turn++;
		pthread_cond_broadcast(&changed);
		pthread_mutex_unlock(&mutex);
	}
	return (void *)own;
}

static int slots[8];
static void *produce(void *arg)
{
	for (int i = 1; i <= 3000; i++) {
		sem_wait(&empty);
		slots[i % 8] = i;
		sem_post(&full);
	}
	return NULL;
}

/* Each thread computes with vectors; a switch must keep them apart. */
static void *compute(void *arg)
{
	double x = (double)(uintptr_t)arg + 1, sum = 0;
	for (int i = 0; i < 300000; i++) {
		x = x * 0.999999 + 1e-7 * i;
		sum += x / (i + 1);
	}
	double *result = malloc(sizeof(*result));
	*result = sum;
	return result;
}

static int order[2];
static atomic_int seen[2];
/* Dekker's pattern with fences: both may not read zero. */
static void *fenced(void *arg)
{
	int me = (int)(uintptr_t)arg;
	for (int i = 0; i < 1000; i++) {
		pthread_barrier_wait(&barrier);
		atomic_store_explicit(&seen[me], 1, memory_order_relaxed);
		atomic_thread_fence(memory_order_seq_cst);
		order[me] = atomic_load_explicit(&seen[!me], memory_order_relaxed);
		pthread_barrier_wait(&barrier);
		if (me == 0) {
			if (!order[0] && !order[1])
				guarded++;
			atomic_store(&seen[0], 0);
			atomic_store(&seen[1], 0);
		}
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

SECTION(threads)
{
	pthread_t thread[THREADS];
	void *result;
	pthread_barrier_init(&barrier, NULL, THREADS);
	for (uintptr_t i = 0; i < THREADS; i++)
		if (pthread_create(&thread[i], NULL, work, (void *)i))
			die("pthread_create");
	for (int i = 0; i < THREADS; i++) {
		pthread_join(thread[i], &result);
		printf("thread %d: %lu\n", i, (unsigned long)result);
	}
	printf("added %lu swapped %lu guarded %lu in turn %lx\n", added, swapped, guarded, in_turn & 0xffffffff);
	sem_init(&full, 0, 0);
	sem_init(&empty, 0, 8);
	pthread_create(&thread[0], NULL, produce, NULL);
	unsigned wrong = 0;
	for (int i = 1; i <= 3000; i++) {
		sem_wait(&full);
		wrong += slots[i % 8] != i;
		sem_post(&empty);
	}
	pthread_join(thread[0], NULL);
	printf("produced, wrong %u\n", wrong);
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&thread[i], NULL, compute, (void *)i);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(thread[i], &result);
		printf("computed %a\n", *(double *)result);
		free(result);
	}
	pthread_barrier_destroy(&barrier);
	pthread_barrier_init(&barrier, NULL, 2);
	guarded = 0;
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&thread[i], NULL, fenced, (void *)i);
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	printf("both read zero %lu\n", guarded);
}
