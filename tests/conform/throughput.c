/*
 * What the protocol costs: small requests a second, and bytes a second of large ones, through exec: and lib: (meson test --benchmark).
 *
 * Started with the word `subject` this program is the exec: backend itself: it sends each request's data back as the answer, and computes nothing.
 * With the name of a backend that offers linear it measures that one alone.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend.h"
#include "frames.h"

/* ---- the subject ---- */

static void transfer(int fd, char *bytes, size_t size) {
  for (size_t done = 0; done < size;) {
    ssize_t n = fd == 0 ? read(0, bytes + done, size - done) : write(1, bytes + done, size - done);
    if (n <= 0) exit(1);
    done += (size_t)n;
  }
}

/* Writes a frame: a header of the length given, which has room for blanks behind it, and data. */
static void say(char *header, size_t length, char *data, size_t size) {
  char start[4096 + 24];
  uint64_t lengths[2] = {8 + length + size, length};
  memcpy(start, lengths, 16);
  memcpy(start + 16, header, length);
  transfer(1, start, 16 + length);
  transfer(1, data, size);
}

static int be_subject(void) {
  static char header[4096];
  char *frame = NULL;
  uint64_t room = 0, size, header_size;
  for (;;) {
    transfer(0, (char *)&size, 8);
    if (size > room && !(frame = realloc(frame, room = size + 1))) return 1;
    transfer(0, frame, size);
    memcpy(&header_size, frame, 8);
    char *data = frame + 8 + header_size, *id = memmem(frame, 8 + header_size, "\"id\":\"", 6);
    uint64_t data_size = size - 8 - header_size;
    if (memmem(frame, 8 + header_size, "\"type\":\"bye\"", 12)) return 0;
    int n = id ? snprintf(header, sizeof header,
                          "{\"__metadata__\":{\"protocol\":\"1\",\"type\":\"answer\",\"id\":\"%d\"},\"y\":{\"dtype\":\"F32\",\"shape\":[%" PRIu64
                          "],\"data_offsets\":[0,%" PRIu64 "]}}",
                          atoi(id + 6), data_size / 4, data_size)
               : snprintf(header, sizeof header,
                          "{\"__metadata__\":{\"protocol\":\"1\",\"type\":\"hello\",\"name\":\"echo\",\"version\":\"1\",\"ops\":\"[\\\"linear\\\"]\","
                          "\"tiers\":\"[\\\"fp32\\\"]\"}}");
    for (; n % 8 != 0; n++) header[n] = ' ';
    say(header, (size_t)n, data, id ? data_size : 0);
  }
}

/* ---- the measurement ---- */

static int by_size(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Seconds of a request with `count` numbers, of as many as fit into `patience` seconds: the shortest, and the median. The first, for which both sides take fresh memory, is not counted. */
static void time_requests(mr3d_backend *backend, int64_t count, double patience, double *shortest, double *median) {
  enum { MOST = 100000 };
  static double taken[MOST];
  int n = -1;
  mr3d_bundle *request = mr3d_bundle_new();
  mr3d_bundle_set(request, "op", "linear");
  mr3d_bundle_set(request, "tier", "fp32");
  mr3d_bundle_set(request, "config", "{\"rope_theta\": 1000000}");
  float *x = mr3d_bundle_add(request, "x", MR3D_F32, 1, &count)->data;
  for (int64_t i = 0; i < count; i++) x[i] = (float)(i % 1000);
  for (double until = mr3d_now() + patience; n < MOST && (n < 3 || mr3d_now() < until); n++) {
    mr3d_reply reply;
    mr3d_backend_ask(backend, request, 60, &reply);
    if (reply.kind != MR3D_REPLY_ANSWER) {
      fprintf(stderr, "kind %d: %s\n%s\n", reply.kind, reply.message, reply.log);
      exit(1);
    }
    if (n >= 0) taken[n] = reply.seconds;
    mr3d_reply_clear(&reply);
  }
  mr3d_bundle_free(&request);
  qsort(taken, (size_t)n, sizeof *taken, by_size);
  *shortest = taken[0], *median = taken[n / 2];
}

/* Bytes a second that one thread reads and writes while it copies `size` of them: what the machine gives at this moment. The median of as many as fit into a quarter of a second. */
static double copy_rate(size_t size) {
  enum { MOST = 1000 };
  static double taken[MOST];
  char *from = malloc(size), *to = malloc(size);
  int n = 0;
  if (!from || !to) exit(1);
  memset(from, 1, size), memset(to, 2, size);
  for (double until = mr3d_now() + 0.25; n < MOST && (n < 3 || mr3d_now() < until); n++) {
    const double start = mr3d_now();
    memcpy(to, from, size);
    taken[n] = mr3d_now() - start;
    from[n % size] = to[size - 1];
  }
  free(from), free(to);
  qsort(taken, (size_t)n, sizeof *taken, by_size);
  return 2 * (double)size / taken[n / 2];
}

static void measure(const char *door, const char *spec) {
  const int64_t sizes[] = {1 << 20, 1 << 24, 1 << 26};
  mr3d_backend *backend = NULL;
  mr3d_error error = {0};
  if (mr3d_backend_open(spec, NULL, &backend, &error) != MR3D_OK) {
    fprintf(stderr, "%s\n", error.message);
    exit(1);
  }
  double shortest, median;
  time_requests(backend, 16, 2, &shortest, &median);
  printf("%s small: %.0f requests/s (%.0f)", door, 1 / median, 1 / shortest);
  for (int i = 0; i < 3; i++) {
    time_requests(backend, sizes[i], 3, &shortest, &median);
    const double both_ways = 2 * 4 * (double)sizes[i];
    printf("  %d MiB: %.2f GB/s (%.2f; memcpy %.2f)", (int)(sizes[i] >> 18), both_ways / median / 1e9, both_ways / shortest / 1e9, copy_rate(4 * (size_t)sizes[i]) / 1e9);
  }
  printf("\n");
  fflush(stdout);
  mr3d_backend_close(&backend);
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "subject") == 0) return be_subject();
  if (argc > 1) return measure("", argv[1]), 0;
  const char *plugin = getenv("MR3D_PLUGIN");
  char spec[4096];
  if (!plugin) {
    fprintf(stderr, "MR3D_PLUGIN must name the plug-in (meson test --benchmark sets it)\n");
    return 1;
  }
  printf("median (and best, and what one thread's memcpy reads and writes just then); bytes of request and answer together\n");
  snprintf(spec, sizeof spec, "exec:'%s' subject", argv[0]);
  measure("exec:", spec);
  snprintf(spec, sizeof spec, "lib:%s", plugin);
  measure("lib: ", spec);
  return 0;
}
