/**
 * Both point encoders at the public widths on a real scan: PyTorch's numbers (golden/scans), the same bits with one thread and two, within 4 GB. Skipped without
 * the data folder.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>
#include <math.h>
#include <sodium.h>

#include "mr3d/ply.h"
#include "mr3d/random.h"
#include "mr3d/safetensors.h"
#include "mr3d/server.h"

/* The scan's cells as voxelize gives them. */
static mr3d_bundle *cells_of(const char *scan) {
  char path[4096];
  mr3d_bundle *file = NULL, *request = mr3d_bundle_new(), *cells = NULL;
  mr3d_error error = {0};
  snprintf(path, sizeof path, "%s/scans/%s", getenv("MR3D_DATA"), scan);
  if (mr3d_ply_open(path, &file, &error)) fail_msg("%s", error.message);
  mr3d_bundle_set(request, "op", "voxelize");
  mr3d_bundle_set(request, "tier", "fp64");
  mr3d_bundle_set(request, "config", "{}");
  mr3d_bundle_copy(request, "points", mr3d_bundle_find(file, "points"));
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.threads = 1});
  if (mr3d_server_answer(server, request, &cells, &error)) fail_msg("%s", error.message);
  mr3d_server_free(&server);
  mr3d_bundle_free(&request);
  mr3d_bundle_free(&file);
  return cells;
}

/* What PyTorch made of them: rows and digests of the features, and in its metadata how it was asked. */
static mr3d_bundle *golden_of(const char *scan, const char *encoder) {
  char path[4096];
  mr3d_bundle *golden = NULL;
  mr3d_error error = {0};
  snprintf(path, sizeof path, "%s/scans/%s_%s.safetensors.gz", getenv("MR3D_GOLDEN"), scan, encoder);
  if (mr3d_safetensors_open(path, (uint64_t)1 << 28, &golden, &error)) fail_msg("%s", error.message);
  return golden;
}

static mr3d_bundle *encode(const mr3d_bundle *cells, const mr3d_bundle *golden, int threads) {
  mr3d_bundle *request = mr3d_bundle_new(), *answer = NULL;
  mr3d_error error = {0};
  mr3d_bundle_set(request, "op", "encode_points");
  mr3d_bundle_set(request, "tier", "fp64");
  mr3d_bundle_set(request, "config", mr3d_bundle_get(golden, "config"));
  mr3d_bundle_setf(request, "weights", "generated:%s/%s", mr3d_bundle_get(golden, "seed"), mr3d_bundle_get(golden, "weights"));
  for (int i = 0; i < mr3d_bundle_count(cells); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(cells, i);
    mr3d_bundle_borrow(request, t->name, t->dtype, t->rank, t->shape, t->data);
  }
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.threads = threads});
  if (mr3d_server_answer(server, request, &answer, &error)) fail_msg("%s", error.message);
  mr3d_server_free(&server);
  mr3d_bundle_free(&request);
  return answer;
}

/* ---- against PyTorch ---- */

#define OF_SCALE 1e-10 /* of the largest value that is kept: what whole encoders may differ by */

static void near(const char *what, int64_t count, const double *got, const double *expected, double bound) {
  for (int64_t i = 0; i < count; i++)
    if (!(fabs(got[i] - expected[i]) <= bound)) fail_msg("%s, element %lld: %.17g, PyTorch gave %.17g; %.3g apart may be", what, (long long)i, got[i], expected[i], bound);
}

/* Row k of a digest is the sum of all rows under signs that the generator draws from the stream digest/k (docs/cases.md). */
static void agrees_with_pytorch(const mr3d_bundle *golden, const mr3d_bundle *answer) {
  const mr3d_tensor *features = mr3d_bundle_find(answer, "features"), *rows = mr3d_bundle_find(golden, "features.rows"), *index = mr3d_bundle_find(golden, "features.row_index"),
                    *digest = mr3d_bundle_find(golden, "features.digest");
  const int64_t N = features->shape[0], C = features->shape[1];
  const double *x = features->data;
  assert_int_equal(N, strtoll(mr3d_bundle_get(golden, "tokens"), NULL, 10));
  assert_true(rows && index && digest && rows->shape[1] == C && digest->shape[1] == C && rows->shape[0] > 0 && digest->shape[0] > 0);
  double scale = 0;
  for (int64_t i = 0; i < mr3d_tensor_count(rows); i++) scale = fmax(scale, fabs(((const double *)rows->data)[i]));
  for (int64_t r = 0; r < rows->shape[0]; r++) near("features", C, x + ((const int64_t *)index->data)[r] * C, (const double *)rows->data + r * C, OF_SCALE * scale);
  double *sum = malloc((size_t)C * sizeof *sum);
  for (int64_t k = 0; k < digest->shape[0]; k++) {
    char name[32];
    snprintf(name, sizeof name, "digest/%lld", (long long)k);
    const mr3d_stream stream = mr3d_stream_named(0, name);
    memset(sum, 0, (size_t)C * sizeof *sum);
    for (int64_t r = 0; r < N; r++)
      for (int64_t c = 0; c < C; c++) sum[c] += mr3d_random_raw(stream, (uint64_t)r) % 2 ? -x[r * C + c] : x[r * C + c];
    near("digest of the features", C, sum, (const double *)digest->data + k * C, OF_SCALE * scale * sqrt((double)N));
  }
  free(sum);
  unsigned char sha256[crypto_hash_sha256_BYTES];
  char hex[2 * sizeof sha256 + 1];
  crypto_hash_sha256(sha256, mr3d_bundle_find(answer, "coords")->data, (size_t)(3 * N) * sizeof(int64_t));
  assert_string_equal(sodium_bin2hex(hex, sizeof hex, sha256, sizeof sha256), mr3d_bundle_get(golden, "coords_sha256"));
}

static void office1_gives_pytorchs_numbers_and_the_same_bits_with_one_thread_and_two(void **state) {
  (void)state;
  mr3d_bundle *cells = cells_of("office1.ply");
  assert_int_equal(mr3d_bundle_find(cells, "grid")->shape[0], 48590);
  static const char *const encoders[] = {"scenescript", "sonata"};
  for (int k = 0; k < 2; k++) {
    mr3d_bundle *golden = golden_of("office1", encoders[k]), *one = encode(cells, golden, 1), *two = encode(cells, golden, 2);
    agrees_with_pytorch(golden, one);
    for (int i = 0; i < mr3d_bundle_count(one); i++) {
      const mr3d_tensor *a = mr3d_bundle_at(one, i), *b = mr3d_bundle_find(two, a->name);
      assert_int_equal(mr3d_tensor_count(a), mr3d_tensor_count(b));
      assert_memory_equal(a->data, b->data, (size_t)mr3d_tensor_count(a) * mr3d_dtype_size(a->dtype));
    }
    mr3d_bundle_free(&golden);
    mr3d_bundle_free(&one);
    mr3d_bundle_free(&two);
  }
  struct rusage used;
  assert_int_equal(getrusage(RUSAGE_SELF, &used), 0);
  print_message("  %.0f s of processor time, %.2f GB at most\n", (double)used.ru_utime.tv_sec, (double)used.ru_maxrss * 1024e-9);
  assert_true(used.ru_maxrss < 4000000000 / 1024);
  mr3d_bundle_free(&cells);
}

int main(void) {
  if (!getenv("MR3D_DATA")) {
    printf("skipped: MR3D_DATA names no data folder\n");
    return 77; /* cmocka's skip() would exit with 0, and the test count as passed */
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(office1_gives_pytorchs_numbers_and_the_same_bits_with_one_thread_and_two)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
