/** mr3d bench: every size is timed on every backend, tables and plot say the same, and a backend that refuses ends it with its reason. */
#include <math.h>

#include "../program.h"
#include "small_suite.h"
#include "in_folder.h"

static int lines_with(const char *text, const char *what) {
  int n = 0;
  for (const char *at = text; (at = strstr(at, what)); at += strlen(what)) n++;
  return n;
}

static void each_size_is_timed_on_each_backend(void **state) {
  (void)state;
  assert_int_equal(mr3d("bench builtin:reference@fp64 lib:%s@fp32 --layers 1,2 --tokens 6,12 --points 0,4 --vocabulary 64 --repeat 1 --rounds 2 --steps 1 --markdown %s/b.md --svg %s/b.svg",
                        getenv("MR3D_F32"), folder, folder), 0);
  char *table = read_bytes(folder, "b.md", NULL), *plot = read_bytes(folder, "b.svg", NULL);
  assert_non_null(strstr(output, table));
  const char *const sizes[] = {"| 2 | 12 | 4 |", "| 1 | 12 | 4 |", "| 2 | 6 | 2 |", "| 2 | 12 | 0 |"};
  for (int i = 0; i < 4; i++) assert_int_equal(lines_with(table, sizes[i]), 2);
  assert_int_equal(lines_with(table, "| reference | fp64 | "), 5); /* and the growth */
  assert_int_equal(lines_with(table, "| f32 | fp32 | "), 5);
  const char *row = table;
  for (int i = 0; i < 4; i++, row++) { /* the first backend beside itself */
    assert_non_null(row = strstr(row, "| reference | fp64 | "));
    const char *ratio = strstr(row, "| 1.00 | ");
    assert_true(ratio && ratio < strchr(row, '\n'));
  }
  assert_int_equal(lines_with(table, "nan") + lines_with(table, "inf"), 0);
  assert_int_equal(lines_with(table, "of 12 tokens, s"), 1); /* attention alone, at both numbers of tokens on both backends */
  assert_int_equal(lines_with(table, "–"), 2); /* two numbers of layers are always on a line */
  assert_int_equal(lines_with(plot, "<circle"), 4); /* two numbers of tokens, two backends */
  assert_int_equal(lines_with(plot, "<path d=\"M"), 3); /* the axes, a line each */
  free(table);
  free(plot);
}

/* The seconds behind what a row begins with, NAN where there is no such row. */
static double seconds_of(const char *tables, const char *row) {
  const char *at = strstr(tables, row);
  return at ? atof(at + strlen(row)) : NAN;
}

static void a_prefill_over_layers_is_measured_against_the_line_that_lies_nearest(void **state) {
  (void)state;
  assert_int_equal(mr3d("bench builtin:reference@fp64 --layers 1,2,4 --tokens 24 --points 0 --vocabulary 64 --repeat 3 --steps 0"), 0);
  const double layers[] = {1, 2, 4};
  double seconds[3], fixed, each, off;
  for (int i = 0; i < 3; i++) {
    char row[64];
    snprintf(row, sizeof row, "| reference | fp64 | %.0f | 24 | 0 | ", layers[i]);
    seconds[i] = seconds_of(output, row);
    assert_true(seconds[i] > 0);
  }
  const char *growth = strstr(output, "at most off that line by");
  assert_non_null(growth);
  growth = strstr(growth, "| reference | fp64 | ");
  assert_non_null(growth);
  assert_int_equal(sscanf(growth, "| reference | fp64 | %lf + %lf n | %lf %% |", &fixed, &each, &off), 3);
  double largest = 0, across = 0, along = 0;
  for (int i = 0; i < 3; i++) { /* at the least squares the relative distances are orthogonal to both coefficients */
    const double distance = (fixed + each * layers[i]) / seconds[i] - 1;
    largest = fmax(largest, fabs(distance));
    across += distance / seconds[i], along += distance * layers[i] / seconds[i];
  }
  assert_true(fabs(100 * largest - off) < 2); /* the table has three digits */
  assert_true(fabs(across) < 0.02 / seconds[0]);
  assert_true(fabs(along) < 0.02 * layers[2] / seconds[2] + 0.02 / seconds[0]);
}

static void a_backend_that_cannot_is_an_error_with_its_reason(void **state) {
  (void)state;
  assert_int_equal(mr3d("bench builtin:reference@fp64 lib:%s@fp64 --layers 1 --tokens 4 --points 0 --vocabulary 16 --repeat 1 --steps 0", getenv("MR3D_F32")), 1);
  assert_said("offers no prefill at fp64");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(each_size_is_timed_on_each_backend, make, drop),
      cmocka_unit_test_setup_teardown(a_prefill_over_layers_is_measured_against_the_line_that_lies_nearest, make, drop),
      cmocka_unit_test(a_backend_that_cannot_is_an_error_with_its_reason),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
