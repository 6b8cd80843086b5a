/** Both point encoders at the public widths on a real scan: the same bits with one thread and two, within 4 GB. Skipped without the data folder. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "mr3d/ply.h"
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

static mr3d_bundle *encode(const mr3d_bundle *cells, const char *encoder, int threads) {
  mr3d_bundle *request = mr3d_bundle_new(), *answer = NULL;
  mr3d_error error = {0};
  mr3d_bundle_set(request, "op", "encode_points");
  mr3d_bundle_set(request, "tier", "fp64");
  mr3d_bundle_set(request, "config", "{\"hidden_size\":896,\"projector\":\"mlp\"}");
  mr3d_bundle_set(request, "encoder", encoder);
  mr3d_bundle_set(request, "weights", "generated:7");
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

static void office1_gives_the_same_bits_with_one_thread_and_two(void **state) {
  (void)state;
  mr3d_bundle *cells = cells_of("office1.ply");
  assert_int_equal(mr3d_bundle_find(cells, "grid")->shape[0], 48590);
  static const char *const encoders[] = {"scenescript", "sonata"};
  for (int k = 0; k < 2; k++) {
    mr3d_bundle *one = encode(cells, encoders[k], 1), *two = encode(cells, encoders[k], 2);
    for (int i = 0; i < mr3d_bundle_count(one); i++) {
      const mr3d_tensor *a = mr3d_bundle_at(one, i), *b = mr3d_bundle_find(two, a->name);
      assert_int_equal(mr3d_tensor_count(a), mr3d_tensor_count(b));
      assert_memory_equal(a->data, b->data, (size_t)mr3d_tensor_count(a) * mr3d_dtype_size(a->dtype));
    }
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
  const struct CMUnitTest tests[] = {cmocka_unit_test(office1_gives_the_same_bits_with_one_thread_and_two)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
