/** `mr3d run` on two real scans of the data folder; skipped without it. */
#include "../program.h"

static void two_real_scans_give_their_known_counts(void **state) {
  (void)state;
  const char *data = getenv("MR3D_DATA");
  assert_int_equal(mr3d("run --scan '%s/scans/office1.ply'", data), 0);
  assert_said("307200 rows, 52744 dropped as non-finite, 254456 kept");
  assert_int_equal(mr3d("run --scan '%s/scans/five_people.ply' --prompt qwen25/all", data), 0);
  assert_said("T = 231 text tokens");
}

int main(void) {
  if (!getenv("MR3D_DATA")) {
    printf("skipped: MR3D_DATA names no data folder\n");
    return 77; /* cmocka's skip() would exit with 0, and the test count as passed */
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(two_real_scans_give_their_known_counts)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
