/*
 * Backends that are not what they seem, for tests/certify/cheating.c; where they are honest, they answer as the reference.
 *
 * `cheat record`        honest, and keeps each request with its answer in the file $MR3D_CHEAT_STORE
 * `cheat replay`        answers what was kept: of the same request, else of one with the same operator and shapes
 * `cheat batch ROWS`    takes the first row's mean square for the rows beyond ROWS
 * `cheat rows N`        all wrong where there are N rows
 * `cheat threads`       other answers where OMP_NUM_THREADS is not 1
 * `cheat disk FOLDER`   as threads, but remembers its answers in a file there, and gives the old one where it is asked the same again
 * `cheat peek FILE`     wrong where it can read a private key in the file
 * `cheat change FILE`   changes a file while it is judged
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mr3d/safetensors.h"
#include "mr3d/server.h"

static void read_all(void *bytes, size_t size) {
  for (size_t got = 0; got < size;) {
    ssize_t n = read(0, (char *)bytes + got, size - got);
    if (n <= 0) exit(4);
    got += (size_t)n;
  }
}

static mr3d_bundle *receive(void) {
  uint64_t size;
  mr3d_bundle *frame;
  read_all(&size, sizeof size);
  void *bytes = malloc(size);
  read_all(bytes, size);
  if (mr3d_safetensors_adopt(bytes, size, &frame, NULL) != MR3D_OK) exit(6);
  return frame;
}

/** With its length in front, as frames go and as the store keeps them. */
static void write_frame(FILE *to, const mr3d_bundle *frame) {
  void *bytes;
  size_t size;
  if (mr3d_safetensors_serialize(frame, &bytes, &size, NULL) != MR3D_OK) exit(7);
  const uint64_t length = size;
  fwrite(&length, sizeof length, 1, to);
  fwrite(bytes, 1, size, to);
  fflush(to);
  free(bytes);
}

/* ---- the store ---- */

static struct {
  int n;
  mr3d_bundle *requests[20000], *answers[20000];
} store;

static mr3d_bundle *read_frame(FILE *from) {
  uint64_t size;
  mr3d_bundle *frame;
  if (fread(&size, sizeof size, 1, from) != 1) return NULL;
  void *bytes = malloc(size);
  if (fread(bytes, 1, size, from) != size || mr3d_safetensors_adopt(bytes, size, &frame, NULL) != MR3D_OK) exit(8);
  return frame;
}

static void read_store(const char *path) {
  FILE *from = fopen(path, "rb");
  if (!from) exit(9);
  store.n = 0;
  while (store.n < 20000 && (store.requests[store.n] = read_frame(from))) store.answers[store.n++] = read_frame(from);
  fclose(from);
}

/** 2: the same request; 1: the same operator, tier, configuration and shapes; 0: another. */
static int likeness(const mr3d_bundle *a, const mr3d_bundle *b) {
  static const char *const keys[] = {"op", "tier", "config"};
  int alike = 2;
  for (int k = 0; k < 3; k++) {
    const char *x = mr3d_bundle_get(a, keys[k]), *y = mr3d_bundle_get(b, keys[k]);
    if (!x || !y || strcmp(x, y) != 0) return 0;
  }
  if (mr3d_bundle_count(a) != mr3d_bundle_count(b)) return 0;
  for (int i = 0; i < mr3d_bundle_count(a); i++) {
    const mr3d_tensor *x = mr3d_bundle_at(a, i), *y = mr3d_bundle_find(b, x->name);
    if (!y || x->dtype != y->dtype || x->rank != y->rank || memcmp(x->shape, y->shape, (size_t)x->rank * sizeof *x->shape) != 0) return 0;
    if (memcmp(x->data, y->data, (size_t)mr3d_tensor_count(x) * mr3d_dtype_size(x->dtype)) != 0) alike = 1;
  }
  return alike;
}

static const mr3d_bundle *recall(const mr3d_bundle *request) {
  int best = -1, most = 0;
  for (int i = 0; i < store.n && most < 2; i++) {
    const int alike = likeness(request, store.requests[i]);
    if (alike > most) most = alike, best = i;
  }
  return best < 0 ? NULL : store.answers[best];
}

/* ---- answers ---- */

static mr3d_bundle *truth(mr3d_server *server, const mr3d_bundle *request) {
  mr3d_bundle *answer = NULL;
  mr3d_error error = {0};
  if (mr3d_server_answer(server, request, &answer, &error) != MR3D_OK) {
    answer = mr3d_bundle_new();
    mr3d_bundle_set(answer, "type", "error");
    mr3d_bundle_set(answer, "message", error.message);
  } else mr3d_bundle_set(answer, "type", "answer");
  return answer;
}

/** Without what the reference's answer holds beside its outputs. */
static mr3d_bundle *outputs_of(const mr3d_bundle *answer) {
  mr3d_bundle *frame = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_count(answer); i++)
    if (!strchr(mr3d_bundle_at(answer, i)->name, ':')) mr3d_bundle_copy(frame, NULL, mr3d_bundle_at(answer, i));
  static const char *const keys[] = {"type", "message"};
  for (int k = 0; k < 2; k++)
    if (mr3d_bundle_get(answer, keys[k])) mr3d_bundle_set(frame, keys[k], mr3d_bundle_get(answer, keys[k]));
  return frame;
}

/** Answers of the tiers below fp64 in binary32, as real backends give them. */
static mr3d_bundle *narrowed(mr3d_bundle *answer, const char *tier) {
  if (!tier || strcmp(tier, "fp64") == 0) return answer;
  mr3d_bundle *narrow = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_meta_count(answer); i++) {
    const char *key, *value;
    mr3d_bundle_meta_at(answer, i, &key, &value);
    mr3d_bundle_set(narrow, key, value);
  }
  for (int i = 0; i < mr3d_bundle_count(answer); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(answer, i);
    float *values = mr3d_bundle_add(narrow, t->name, MR3D_F32, t->rank, t->shape)->data;
    for (int64_t k = 0; k < mr3d_tensor_count(t); k++) values[k] = (float)((double *)t->data)[k];
  }
  mr3d_bundle_free(&answer);
  return narrow;
}

/** Rows of y from `rows` on, a hundredth too large. */
static void spoil(mr3d_bundle *answer, int64_t rows) {
  mr3d_tensor *y = mr3d_bundle_find(answer, "y");
  if (!y || y->dtype != MR3D_F64 || y->rank != 2) return;
  for (int64_t i = rows * y->shape[1]; i < mr3d_tensor_count(y); i++) ((double *)y->data)[i] *= 1.01;
}

static bool holds_key(const char *path) {
  char text[1000] = "";
  FILE *from = fopen(path, "rb");
  if (!from) return false;
  text[fread(text, 1, sizeof text - 1, from)] = '\0';
  fclose(from);
  return strstr(text, "private") != NULL;
}

/** The answer to the same request of an earlier time, or NULL; a store that is not there yet is begun. */
static const mr3d_bundle *remembered(const char *path, const mr3d_bundle *request) {
  FILE *begun = fopen(path, "ab");
  if (begun) fclose(begun);
  read_store(path);
  for (int i = 0; i < store.n; i++)
    if (likeness(request, store.requests[i]) == 2) return store.answers[i];
  return NULL;
}

int main(int argc, char **argv) {
  const char *mode = argc > 1 ? argv[1] : "", *word = argc > 2 ? argv[2] : "", *threads = getenv("OMP_NUM_THREADS"), *path = getenv("MR3D_CHEAT_STORE");
  char memory[1000];
  snprintf(memory, sizeof memory, "%s/remembered", word);
  FILE *kept = strcmp(mode, "record") == 0 ? fopen(path, "ab") : NULL;
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.threads = 1});
  if (strcmp(mode, "replay") == 0) read_store(path);
  for (;;) {
    mr3d_bundle *request = receive(), *answer = NULL;
    const char *type = mr3d_bundle_get(request, "type");
    if (strcmp(type, "bye") == 0) return 0;
    if (strcmp(type, "hello") == 0) {
      answer = mr3d_bundle_new();
      mr3d_bundle_set(answer, "type", "hello");
      mr3d_bundle_set(answer, "name", "cheat");
      mr3d_bundle_set(answer, "version", mode);
      mr3d_bundle_set(answer, "ops", "[\"rmsnorm\"]");
      mr3d_bundle_set(answer, "tiers", "[\"fp64\",\"fp32\"]");
    } else if (strcmp(mode, "replay") == 0) {
      const mr3d_bundle *old = recall(request);
      answer = old ? outputs_of(old) : mr3d_bundle_new();
      if (!old) mr3d_bundle_set(answer, "type", "error"), mr3d_bundle_set(answer, "message", "I have not seen this before");
    } else if (strcmp(mode, "disk") == 0 && remembered(memory, request)) answer = outputs_of(remembered(memory, request));
    else {
      mr3d_bundle *whole = truth(server, request);
      answer = outputs_of(whole);
      mr3d_bundle_free(&whole);
      if (strcmp(mode, "batch") == 0) spoil(answer, atoi(word));
      if (strcmp(mode, "rows") == 0 && mr3d_bundle_find(request, "x") && mr3d_bundle_find(request, "x")->shape[0] == atoi(word)) spoil(answer, 0);
      if (strcmp(mode, "peek") == 0 && holds_key(word)) spoil(answer, 0);
      if ((strcmp(mode, "threads") == 0 || strcmp(mode, "disk") == 0) && threads && strcmp(threads, "1") != 0) spoil(answer, 0);
      if (strcmp(mode, "change") == 0) truncate(word, 3) == 0 ? (void)0 : exit(10);
      answer = narrowed(answer, mr3d_bundle_get(request, "tier"));
    }
    if (strcmp(mode, "disk") == 0 && strcmp(type, "request") == 0 && !kept) kept = fopen(memory, "ab");
    if (kept && strcmp(type, "request") == 0) write_frame(kept, request), write_frame(kept, answer);
    mr3d_bundle_set(answer, "protocol", "1");
    if (mr3d_bundle_get(request, "id")) mr3d_bundle_set(answer, "id", mr3d_bundle_get(request, "id"));
    write_frame(stdout, answer);
    mr3d_bundle_free(&request);
    mr3d_bundle_free(&answer);
  }
}
