/*
 * What it costs to compare two traces of everything: 24 layers of full width, 786 tokens, all points (meson test --benchmark). At most 15 s on two cores and
 * 512 MiB, mapped pages included; the answer must be "rounding".
 *
 *     full_traces MR3D SCENE.ply
 *
 * The traces are the reference's own, rounded to binary32: one to nearest, the other in a third of its elements to the neighbour behind.
 */
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mr3d/random.h"
#include "mr3d/safetensors.h"
#include "../conform/in_folder.h"

#define MOST_SECONDS 15.0
#define MOST_MIB 512.0
enum { TEXT_TOKENS = 229, START = 151652, END = 151653, PAD = 151654 }; /* with PAD between the markers a prompt of 232, of which 231 stay */

static int give_up(const char *what) {
  fprintf(stderr, "full_traces: %s\n", what);
  remove_folder(folder);
  return 1;
}

static void write_inputs(void) {
  FILE *file = fopen(in_folder("config.json"), "w");
  fputs("{\"hidden_size\":896,\"intermediate_size\":4864,\"num_hidden_layers\":24,\"num_attention_heads\":14,\"num_key_value_heads\":2,\"head_dim\":64,\"vocab_size\":151936,"
        "\"rope_theta\":1000000.0,\"rms_norm_eps\":1e-6,\"tie_word_embeddings\":true,\"point_config\":{\"num_bins\":1280}}", file);
  fclose(file);
  file = fopen(in_folder("prompt.json"), "w");
  fprintf(file, "{\"p\":[");
  for (int t = 0; t < 14; t++) fprintf(file, "%d,", 8948 + t);
  fprintf(file, "%d,%d,%d", START, PAD, END);
  for (int t = 14; t < TEXT_TOKENS - 1; t++) fprintf(file, ",%d", 2610 + 7 * t);
  fprintf(file, "]}");
  fclose(file);
}

/** Runs a command line to its end; its seconds and the most memory that it held. */
static int run(char *const words[], double *seconds, double *processor, double *mib) {
  struct timespec begin, end;
  struct rusage used;
  int status = -1;
  fflush(NULL);
  clock_gettime(CLOCK_MONOTONIC, &begin);
  const pid_t child = fork();
  if (child == 0) {
    execv(words[0], words);
    _exit(127);
  }
  if (child < 0 || wait4(child, &status, 0, &used) != child) return -1;
  clock_gettime(CLOCK_MONOTONIC, &end);
  *seconds = (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
  *processor = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + 1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
  *mib = (double)used.ru_maxrss / 1024;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void copy_rounded(mr3d_safetensors_writer *writer, const mr3d_tensor *t, mr3d_stream stream, bool strays) {
  if (t->dtype != MR3D_F64) {
    mr3d_safetensors_writer_add(writer, NULL, t);
    return;
  }
  const double *exact = t->data;
  const int64_t count = mr3d_tensor_count(t);
  float *rounded = mr3d_allocate(count, sizeof *rounded);
  for (int64_t i = 0; i < count; i++) {
    rounded[i] = (float)exact[i];
    if (strays && mr3d_random_raw(stream, (uint64_t)i) % 3 == 0 && isfinite(rounded[i])) rounded[i] = nextafterf(rounded[i], exact[i] > (double)rounded[i] ? INFINITY : -INFINITY);
  }
  mr3d_tensor narrow = *t;
  narrow.dtype = MR3D_F32, narrow.data = rounded;
  mr3d_safetensors_writer_add(writer, NULL, &narrow);
  free(rounded);
}

static mr3d_status write_rounded(const mr3d_bundle *truth, const char *path, bool strays, int64_t *bytes, mr3d_error *error) {
  mr3d_safetensors_writer *writer;
  mr3d_status status = mr3d_safetensors_writer_open(path, &writer, error);
  if (status) return status;
  for (int i = 0; i < mr3d_bundle_meta_count(truth); i++) {
    const char *key, *value;
    mr3d_bundle_meta_at(truth, i, &key, &value);
    mr3d_safetensors_writer_set(writer, key, strcmp(key, "tier") == 0 ? "fp32" : value);
  }
  for (int i = 0; i < mr3d_bundle_count(truth); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(truth, i);
    copy_rounded(writer, t, mr3d_stream_named(1, t->name), strays);
  }
  *bytes = mr3d_safetensors_writer_bytes(writer);
  return mr3d_safetensors_writer_close(&writer, true, error);
}

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "Usage: %s MR3D SCENE.ply\n", argv[0]), 1;
  mr3d_error error = {0};
  mr3d_bundle *truth;
  double seconds, processor, mib;
  int64_t bytes;
  make_folder(folder);
  write_inputs();
  char prompt[330];
  snprintf(prompt, sizeof prompt, "%s:p", in_folder("prompt.json"));
  if (run((char *[]){argv[1], "run", "--scan", argv[2], "--prompt", prompt, "--weights", "generated:5", "--config", (char *)in_folder("config.json"), "--steps", "1", "--trace",
                     (char *)in_folder("truth.safetensors"), "--points", "*.*.*", NULL}, &seconds, &processor, &mib))
    return give_up("mr3d run made no trace");
  printf("the reference's trace: %.1f s, at most %.0f MiB\n", seconds, mib);
  if (mr3d_safetensors_open(in_folder("truth.safetensors"), 0, &truth, &error) || write_rounded(truth, in_folder("mine.safetensors"), false, &bytes, &error) ||
      write_rounded(truth, in_folder("theirs.safetensors"), true, &bytes, &error))
    return give_up(error.message);
  const int tensors = mr3d_bundle_count(truth);
  mr3d_bundle_free(&truth);
  remove(in_folder("truth.safetensors"));
  const int said = run((char *[]){argv[1], "drift", (char *)in_folder("mine.safetensors"), (char *)in_folder("theirs.safetensors"), NULL}, &seconds, &processor, &mib);
  printf("two traces of %d tensors, %.2f GB each: %.1f s (at most %.0f), %.1f s of processor time, at most %.0f MiB (of %.0f)\n", tensors, (double)bytes / 1e9, seconds, MOST_SECONDS, processor, mib, MOST_MIB);
  if (said) return give_up("mr3d drift did not say that it is rounding");
  if (seconds > MOST_SECONDS || mib > MOST_MIB) return give_up("too much");
  remove_folder(folder);
  return 0;
}
