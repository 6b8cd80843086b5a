/** The generator draws the same bits as its Python twin (golden/random_digests.json), one by one, in bulk and at any thread count. */
#include "support.h"

#include <math.h>

#include <cjson/cJSON.h>
#include <omp.h>
#include <sodium.h>

#include "mr3d/random.h"

/* Words of NumPy's Philox(counter=0, key=[0, 0]), which reproduces the known-answer vectors of the Random123 distribution. */
static void raw_words_are_those_of_philox4x64_10(void **state) {
  (void)state;
  static const uint64_t expected[8] = {UINT64_C(0x02f4ba6408e4d89b), UINT64_C(0x3dd62b0b9ca8c5b2), UINT64_C(0x1c8667a55d902e79),
                                       UINT64_C(0x907d7a052fd5b4dc), UINT64_C(0x809bf322883987c3), UINT64_C(0x471128b9e807f7dd),
                                       UINT64_C(0xf250ba0dbec065b7), UINT64_C(0xfc6ed66767a457bc)};
  for (uint64_t i = 0; i < 8; i++)
    assert_int_equal(mr3d_random_raw((mr3d_stream){{0, 0}}, i), expected[i]);
}

static void a_stream_is_keyed_by_seed_and_fnv1a_of_its_name(void **state) {
  (void)state; /* published FNV-1a test vectors */
  assert_int_equal(mr3d_stream_named(7, "").key[0], 7);
  assert_int_equal(mr3d_stream_named(7, "").key[1], UINT64_C(0xcbf29ce484222325));
  assert_int_equal(mr3d_stream_named(0, "a").key[1], UINT64_C(0xaf63dc4c8601ec8c));
  assert_int_equal(mr3d_stream_named(0, "foobar").key[1], UINT64_C(0x85944171f73967e8));
}

static void filling_equals_drawing_one_by_one(void **state) {
  (void)state;
  const mr3d_stream stream = mr3d_stream_named(3, "fill");
  static const uint64_t starts[] = {0, 1, 2, 3, 4, 5, 1000003, (UINT64_C(1) << 40) + 2};
  for (size_t s = 0; s < sizeof starts / sizeof *starts; s++)
    for (int64_t count = 0; count < 23; count++) {
      uint64_t words[24];
      words[count] = 42;
      mr3d_random_fill(stream, starts[s], count, words);
      for (int64_t i = 0; i < count; i++)
        assert_int_equal(words[i], mr3d_random_raw(stream, starts[s] + (uint64_t)i));
      assert_int_equal(words[count], 42); /* and nothing behind */
    }
}

/* ---- the digests of both implementations ---- */

static cJSON *digests;

static int load_digests(void **state) {
  (void)state;
  const char *golden = getenv("MR3D_GOLDEN"); /* set by meson test */
  char path[4096];
  snprintf(path, sizeof path, "%s/random_digests.json", golden != NULL ? golden : "golden");
  FILE *file = fopen(path, "rb");
  if (file == NULL || sodium_init() < 0) {
    fprintf(stderr, "cannot read %s (MR3D_GOLDEN is its folder); python golden/mr3d_random.py --digests prints it\n", path);
    return -1;
  }
  static char text[1 << 20];
  text[fread(text, 1, sizeof text - 1, file)] = '\0';
  fclose(file);
  digests = cJSON_Parse(text);
  return digests != NULL ? 0 : -1;
}

static int free_digests(void **state) {
  (void)state;
  cJSON_Delete(digests);
  return 0;
}

static const cJSON *member(const cJSON *object, const char *name) {
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, name);
  if (value == NULL)
    fail_msg("random_digests.json: no \"%s\" in an entry", name);
  return value;
}

static mr3d_stream stream_of(const cJSON *entry) {
  return mr3d_stream_named(strtoull(member(entry, "seed")->valuestring, NULL, 10), member(entry, "stream")->valuestring);
}

static void assert_sha256(const cJSON *entry, const void *bytes, size_t size) {
  unsigned char hash[crypto_hash_sha256_BYTES];
  char text[2 * sizeof hash + 1];
  crypto_hash_sha256(hash, bytes, size);
  sodium_bin2hex(text, sizeof text, hash, sizeof hash);
  if (strcmp(text, member(entry, "sha256")->valuestring) != 0)
    fail_msg("stream %s: other bits than Python's", member(entry, "stream")->valuestring);
}

static void raw_words_equal_pythons(void **state) {
  (void)state;
  int checked = 0;
  const cJSON *entry;
  cJSON_ArrayForEach(entry, member(digests, "raw")) {
    const int64_t count = (int64_t)member(entry, "count")->valuedouble;
    uint64_t *words = mr3d_allocate(count, sizeof *words);
    mr3d_random_fill(stream_of(entry), 0, count, words);
    assert_sha256(entry, words, (size_t)count * sizeof *words);
    free(words);
    checked++;
  }
  assert_true(checked >= 4);
}

/* The recipe's tensor; every key must be known, so none is left out silently. */
static mr3d_tensor *draw_recipe(mr3d_bundle *bundle, const cJSON *recipe, mr3d_stream stream, mr3d_draw *draw) {
  int64_t shape[MR3D_MAX_RANK];
  int rank = 0;
  *draw = (mr3d_draw){.scale = 1};
  const cJSON *key;
  cJSON_ArrayForEach(key, recipe) {
    if (strcmp(key->string, "shape") == 0)
      for (const cJSON *size = key->child; size != NULL; size = size->next)
        shape[rank++] = (int64_t)size->valuedouble;
    else if (strcmp(key->string, "dist") == 0)
      draw->dist = mr3d_dist_named(key->valuestring);
    else if (strcmp(key->string, "lo") == 0)
      draw->lo = key->valuedouble;
    else if (strcmp(key->string, "hi") == 0)
      draw->hi = key->valuedouble;
    else if (strcmp(key->string, "scale") == 0)
      draw->scale = key->valuedouble;
    else if (strcmp(key->string, "shift") == 0)
      draw->shift = key->valuedouble;
    else if (strcmp(key->string, "repeat") == 0)
      draw->repeat = cJSON_IsTrue(key);
    else if (strcmp(key->string, "outliers") == 0) {
      draw->outlier_every = (int64_t)member(key, "every")->valuedouble;
      draw->outlier_by = member(key, "by")->valuedouble;
    } else if (strcmp(key->string, "dtype") != 0)
      fail_msg("unknown key \"%s\" in a recipe", key->string);
  }
  assert_int_not_equal(draw->dist, MR3D_N_DISTS);
  mr3d_tensor *tensor = mr3d_bundle_add(bundle, "t", mr3d_dtype_named(member(recipe, "dtype")->valuestring), rank, shape);
  mr3d_random_draw(draw, stream, tensor);
  return tensor;
}

static void tensors_of_every_distribution_equal_pythons(void **state) {
  (void)state;
  int of_dist[MR3D_N_DISTS] = {0}, of_dtype[MR3D_N_DTYPES] = {0}, repeated = 0, with_outliers = 0;
  const cJSON *entry;
  cJSON_ArrayForEach(entry, member(digests, "tensors")) {
    mr3d_bundle *bundle = mr3d_bundle_new();
    mr3d_draw draw;
    const mr3d_tensor *tensor = draw_recipe(bundle, member(entry, "recipe"), stream_of(entry), &draw);
    assert_sha256(entry, tensor->data, (size_t)mr3d_tensor_count(tensor) * mr3d_dtype_size(tensor->dtype));
    of_dist[draw.dist]++;
    of_dtype[tensor->dtype]++;
    repeated += draw.repeat;
    with_outliers += draw.outlier_every > 0;
    mr3d_bundle_free(&bundle);
  }
  for (int dist = 0; dist < MR3D_N_DISTS; dist++)
    assert_true(of_dist[dist] > 0);
  assert_true(of_dtype[MR3D_F64] > 0 && of_dtype[MR3D_F32] > 0 && of_dtype[MR3D_F16] > 0 && of_dtype[MR3D_BF16] > 0 && of_dtype[MR3D_I64] > 0);
  assert_true(repeated > 0 && with_outliers > 0);
}

/* ---- properties ---- */

static double *drawn(const mr3d_draw *draw, int rank, const int64_t shape[], mr3d_dtype dtype) {
  mr3d_bundle *bundle = mr3d_bundle_new();
  mr3d_tensor *tensor = mr3d_bundle_add(bundle, "t", dtype, rank, shape);
  mr3d_random_draw(draw, mr3d_stream_named(11, "properties"), tensor);
  double *values = mr3d_allocate(mr3d_tensor_count(tensor), sizeof *values);
  mr3d_tensor_to_double(tensor, values);
  mr3d_bundle_free(&bundle);
  return values;
}

static void the_thread_count_changes_nothing(void **state) {
  (void)state;
  const int64_t shape[3] = {5, 211, 307}; /* 323,885 elements, no multiple of anything */
  const size_t size = 5 * 211 * 307 * sizeof(double);
  const int before = omp_get_max_threads();
  for (int repeat = 0; repeat < 2; repeat++) {
    const mr3d_draw draw = {.dist = MR3D_HEAVY, .scale = 3, .shift = 0.1, .outlier_every = 97, .outlier_by = 40, .repeat = repeat != 0};
    omp_set_num_threads(1);
    double *alone = drawn(&draw, 3, shape, MR3D_F64);
    for (int threads = 2; threads <= 7; threads++) {
      omp_set_num_threads(threads);
      double *together = drawn(&draw, 3, shape, MR3D_F64);
      assert_memory_equal(alone, together, size);
      free(together);
    }
    free(alone);
  }
  omp_set_num_threads(before);
}

static void an_element_does_not_depend_on_the_tensors_size(void **state) {
  (void)state;
  const mr3d_draw draw = {.dist = MR3D_NORMAL, .scale = 1};
  double *large = drawn(&draw, 1, (int64_t[]){100000}, MR3D_F64), *small = drawn(&draw, 2, (int64_t[]){7, 11}, MR3D_F64);
  assert_memory_equal(large, small, 77 * sizeof *small);
  free(large);
  free(small);
}

static void rows_can_be_drawn_alone(void **state) {
  (void)state;
  enum { ROWS = 900, COLUMNS = 7, FIRST = 411, COUNT = 301 };
  static double whole[ROWS * COLUMNS], part[COUNT * COLUMNS];
  const mr3d_stream stream = mr3d_stream_named(3, "rows");
  for (int dist = MR3D_UNIFORM; dist <= MR3D_CONST; dist++) {
    const mr3d_draw draw = {.dist = (mr3d_dist)dist, .lo = -2, .hi = 9, .scale = 1.5, .shift = 0.25, .outlier_every = 3, .outlier_by = 40};
    mr3d_random_draw(&draw, stream, &(mr3d_tensor){"w", MR3D_F64, 2, {ROWS, COLUMNS}, whole});
    mr3d_random_draw_rows(&draw, stream, FIRST, &(mr3d_tensor){"w", MR3D_F64, 2, {COUNT, COLUMNS}, part});
    assert_memory_equal(part, whole + FIRST * COLUMNS, sizeof part);
  }
}

static void repeat_copies_row_0_of_each_block(void **state) {
  (void)state;
  const int64_t shape[3] = {2, 3, 5};
  const mr3d_draw once = {.dist = MR3D_UNIFORM, .lo = -1, .hi = 1, .scale = 1}, repeated = {.dist = MR3D_UNIFORM, .lo = -1, .hi = 1, .scale = 1, .repeat = true};
  double *plain = drawn(&once, 3, shape, MR3D_F64), *rows = drawn(&repeated, 3, shape, MR3D_F64);
  for (int block = 0; block < 2; block++)
    for (int row = 0; row < 3; row++)
      assert_memory_equal(rows + 15 * block + 5 * row, plain + 15 * block, 5 * sizeof *rows);
  assert_memory_not_equal(plain, plain + 5, 5 * sizeof *plain);
  free(plain);
  free(rows);
}

static void scale_shift_and_outliers_apply_in_this_order(void **state) {
  (void)state;
  const mr3d_draw draw = {.dist = MR3D_CONST, .scale = 3, .shift = 0.5, .outlier_every = 4, .outlier_by = -2};
  double *values = drawn(&draw, 2, (int64_t[]){2, 9}, MR3D_F64);
  for (int i = 0; i < 18; i++)
    assert_true(values[i] == (i % 9 % 4 == 3 ? -7 : 3.5));
  free(values);
}

static void onehot_rows_point_at_their_index_modulo_the_row_length(void **state) {
  (void)state;
  const mr3d_draw draw = {.dist = MR3D_ONEHOT, .scale = 1};
  double *values = drawn(&draw, 3, (int64_t[]){2, 7, 3}, MR3D_F32);
  for (int i = 0; i < 42; i++)
    assert_true(values[i] == (i % 3 == i / 3 % 7 % 3));
  free(values);
}

static void distributions_keep_their_bounds_and_moments(void **state) {
  (void)state;
  enum { N = 1000000 };
  static const struct {
    mr3d_draw draw;
    double lowest, highest, mean, deviation; /* deviation 0: not checked */
  } expected[] = {
      {{.dist = MR3D_UNIFORM, .lo = 0.2, .hi = 4, .scale = 1}, 0.2, 4, 2.1, 1.0970},
      {{.dist = MR3D_NORMAL, .scale = 1}, -3.4642, 3.4642, 0, 1},
      {{.dist = MR3D_HEAVY, .scale = 1}, -24, 24, 0, 0},
      {{.dist = MR3D_INT, .lo = -3, .hi = 79, .scale = 1}, -3, 79, 38, 23.9583},
  };
  for (size_t k = 0; k < sizeof expected / sizeof *expected; k++) {
    double *v = drawn(&expected[k].draw, 1, (int64_t[]){N}, MR3D_F64), sum = 0, squares = 0, lowest = v[0], highest = v[0];
    for (int i = 0; i < N; i++) {
      sum += v[i];
      squares += v[i] * v[i];
      lowest = fmin(lowest, v[i]);
      highest = fmax(highest, v[i]);
    }
    const double mean = sum / N, deviation = sqrt(squares / N - mean * mean);
    assert_true(lowest >= expected[k].lowest && highest <= expected[k].highest);
    assert_true(fabs(mean - expected[k].mean) < 5 * deviation / 1000);
    if (expected[k].deviation > 0)
      assert_true(fabs(deviation / expected[k].deviation - 1) < 0.005);
    if (expected[k].draw.dist == MR3D_HEAVY)
      assert_true(highest > 12 && lowest < -12); /* tails that a normal never has */
    if (expected[k].draw.dist == MR3D_INT)
      assert_true(lowest == -3 && highest == 79);
    free(v);
  }
}

static void empty_and_scalar_tensors_can_be_drawn(void **state) {
  (void)state;
  const mr3d_draw draw = {.dist = MR3D_UNIFORM, .lo = 2, .hi = 3, .scale = 1, .repeat = true, .outlier_every = 2, .outlier_by = 9};
  free(drawn(&draw, 2, (int64_t[]){3, 0}, MR3D_F32));
  double *scalar = drawn(&draw, 0, NULL, MR3D_F64);
  assert_true(scalar[0] >= 2 && scalar[0] < 3);
  free(scalar);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(raw_words_are_those_of_philox4x64_10),
      cmocka_unit_test(a_stream_is_keyed_by_seed_and_fnv1a_of_its_name),
      cmocka_unit_test(filling_equals_drawing_one_by_one),
      cmocka_unit_test(raw_words_equal_pythons),
      cmocka_unit_test(tensors_of_every_distribution_equal_pythons),
      cmocka_unit_test(the_thread_count_changes_nothing),
      cmocka_unit_test(an_element_does_not_depend_on_the_tensors_size),
      cmocka_unit_test(rows_can_be_drawn_alone),
      cmocka_unit_test(repeat_copies_row_0_of_each_block),
      cmocka_unit_test(scale_shift_and_outliers_apply_in_this_order),
      cmocka_unit_test(onehot_rows_point_at_their_index_modulo_the_row_length),
      cmocka_unit_test(distributions_keep_their_bounds_and_moments),
      cmocka_unit_test(empty_and_scalar_tensors_can_be_drawn),
  };
  return cmocka_run_group_tests_name("random data", tests, load_digests, free_digests);
}
