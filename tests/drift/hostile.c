/** Whatever a trace holds, it is read, compared and searched without harm: wrong types, ranks, sizes, names, metadata, maps. */
#include <math.h>

#include "findings.h"
#include "fixture.h"

static uint64_t state_of_draws;
static int64_t draw(int64_t below) {
  state_of_draws = state_of_draws * 6364136223846793005u + 1442695040888963407u;
  return (int64_t)((state_of_draws >> 33) % (uint64_t)below);
}

static const char *any_point(bool *of_layer) {
  const mr3d_trace_place place = (mr3d_trace_place)draw(MR3D_TRACE_N_PLACES);
  int n = 0;
  const mr3d_trace_point *points = mr3d_trace_points(place);
  while (points[n].name) n++;
  *of_layer = place == MR3D_TRACE_OF_LAYER;
  return points[draw(n)].name;
}

/* A tensor of any type and small shape, also NaN and absurd numbers. */
static void add_any(mr3d_bundle *bundle, const char *name) {
  static const int64_t sizes[] = {0, 1, 1, 1, 2, 3, 5, 6, 8, 40, 48};
  const mr3d_dtype dtype = draw(3) ? (draw(2) ? MR3D_F32 : MR3D_I64) : (mr3d_dtype)draw(MR3D_N_DTYPES);
  int64_t shape[MR3D_MAX_RANK], count = 1;
  const int rank = (int)draw(6);
  for (int i = 0; i < rank; i++) count *= shape[i] = sizes[draw((int64_t)(sizeof sizes / sizeof *sizes))];
  if (count > 1 << 16 || mr3d_bundle_find(bundle, name)) return;
  unsigned char *data = mr3d_bundle_add(bundle, name, dtype, rank, shape)->data;
  const int kind = (int)draw(3);
  for (int64_t i = 0; i < count * (int64_t)mr3d_dtype_size(dtype); i++) data[i] = (unsigned char)(dtype == MR3D_BOOL ? draw(2) : kind == 0 ? 0xFF : kind == 1 ? draw(256) : i % 8 == 0 ? draw(9) : 0);
}

/* A shape that fits, of a point that has one, so that values are looked at as well. */
static void add_fitting(mr3d_bundle *bundle, const char *name, const char *point, bool of_layer, int step) {
  const mr3d_trace_sizes sizes = {1, step ? 1 : Q, step ? Q + step - 1 : 0, 3, Q, 2, 1, 1, H, G, D, C, I, V};
  const mr3d_trace_point *p = mr3d_trace_point_named(of_layer, point);
  int64_t shape[MR3D_MAX_RANK];
  const int rank = mr3d_trace_shape(p, &sizes, shape);
  if (mr3d_bundle_find(bundle, name)) return;
  mr3d_tensor *t = mr3d_bundle_add(bundle, name, draw(2) ? p->dtype : MR3D_F32, rank, shape);
  for (int64_t i = 0; i < mr3d_tensor_count(t) * (int64_t)mr3d_dtype_size(t->dtype); i++) ((unsigned char *)t->data)[i] = (unsigned char)(t->dtype == MR3D_BOOL ? draw(2) : draw(256));
}

static void set_any(mr3d_bundle *bundle, const char *key) {
  static const char *const texts[] = {"", "{", "[]", "3", "null", "{}", "{\"a\":1}", "{\"model.norm.weight\":3}", "{\"model.norm.weight\":\"abc\"}", CONFIG_TEXT,
                                      "{\"num_attention_heads\":0,\"head_dim\":-4}", "{\"num_attention_heads\":7,\"num_key_value_heads\":2}", "{\"hidden_size\":1e300}", "generated:7", "generated:", "/nowhere",
                                      "{\"model.layers.99999999999999999999.x\":\"0123456789012345678901234567890123456789012345678901234567890123\"}"};
  if (draw(3)) mr3d_bundle_set(bundle, key, texts[draw((int64_t)(sizeof texts / sizeof *texts))]);
}

static mr3d_bundle *any_trace(void) {
  static const char *const odd[] = {"0.0.nothing", "0.-1.query", "x", "1.model.query", "0.0", "..", "999999.0.query", "0.999999.query", "99999999999.0.query", "weights.", "weights.model.norm.weight",
                                    "weights.model.layers.0.self_attn.freqs_3d_q"};
  mr3d_bundle *bundle = mr3d_bundle_new();
  if (draw(4)) mr3d_bundle_set(bundle, "config", CONFIG_TEXT);
  else set_any(bundle, "config");
  set_any(bundle, "weights_sha256"), set_any(bundle, "weights"), set_any(bundle, "tier");
  const int n = 1 + (int)draw(40);
  for (int i = 0; i < n; i++) {
    char name[160];
    bool of_layer;
    const char *point = any_point(&of_layer);
    const int step = (int)draw(3);
    if (of_layer) snprintf(name, sizeof name, "%d.%d.%s", step, (int)draw(2), point);
    else snprintf(name, sizeof name, "%d.model.%s", step, point);
    if (!draw(20)) add_any(bundle, odd[draw((int64_t)(sizeof odd / sizeof *odd))]);
    else if (draw(3)) add_fitting(bundle, name, point, of_layer, step);
    else add_any(bundle, name);
  }
  return bundle;
}

static void read_everything(mr3d_aligned *a) {
  for (int64_t step = 0; step < mr3d_aligned_steps(a) && step < 4; step++)
    for (int64_t layer = MR3D_TRACE_MODEL; layer < mr3d_aligned_layers(a) && layer < 4; layer++)
      for (int place = 0; place < MR3D_TRACE_N_PLACES; place++)
        for (const mr3d_trace_point *p = mr3d_trace_points((mr3d_trace_place)place); p->name; p++) {
          char text[96];
          const mr3d_tensor *t = mr3d_aligned_find(a, step, layer, p->name);
          mr3d_aligned_layout(a, step, layer, p->name, text);
          if (!t) continue;
          double *values = mr3d_allocate(mr3d_tensor_count(t), sizeof *values);
          mr3d_tensor_to_double(t, values);
          free(values);
          if (p->dtype != MR3D_F64) assert_int_equal(t->dtype, p->dtype); /* flags and numbers come as such */
          else assert_true(mr3d_dtype_is_float(t->dtype));
        }
}

static void no_trace_does_harm(void **state) {
  (void)state;
  int opened = 0, found = 0;
  for (int i = 0; i < 1500; i++) {
    state_of_draws = (uint64_t)i * 2654435761u + 17;
    mr3d_bundle *subject = any_trace(), *other = any_trace();
    mr3d_aligned *a = NULL, *b = NULL;
    mr3d_error error = {0};
    mr3d_missing missing[8];
    mr3d_align_bundle(other, "other", NULL, &b, &error);
    if (mr3d_align_bundle(subject, "mine", &(mr3d_align_options){.reference = draw(2) ? b : NULL}, &a, &error) == MR3D_OK) {
      mr3d_trace_findings f = {0};
      opened++;
      read_everything(a);
      mr3d_aligned_missing(a, b, 8, missing);
      mr3d_symptom_numbers(a);
      mr3d_findings_gather(&f, &(mr3d_inputs_side){.trace = a}, &(mr3d_inputs_side){.trace = b, .config = b ? NULL : CONFIG_TEXT});
      found += f.n_lines;
      mr3d_findings_clear(&f);
    } else if (!*error.message) fail_msg("a refusal says nothing");
    mr3d_align_free(&a), mr3d_align_free(&b);
    mr3d_bundle_free(&subject), mr3d_bundle_free(&other);
  }
  assert_true(opened > 1000); /* else nothing was tried */
  assert_true(found > 1000);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(no_trace_does_harm)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
