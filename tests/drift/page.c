/** The page of a drift: well formed, loads nothing, and can be used by keyboard and by a screen reader. */
#include <unistd.h>

#include "../markup.h"
#include "drift_report.h"
#include "plant.h"

/** The page of a decoder with a fault at the points of layer 2; where `total`, with total errors. */
static char *page(const char *faults, bool total) {
  const model_sizes model = SMALL_MODEL;
  char config[1200], path[64];
  mr3d_mutant_place places[MR3D_MOST_PLACES];
  mr3d_drift_verdict verdict;
  mr3d_error error = {0};
  const int n = read_places(faults, places);
  mr3d_weights_cache *weights = mr3d_weights_cache_new();
  config_text(config, sizeof config, &model, "");
  generation g = generate(ONE_SAMPLE, MR3D_FP32, config, &model, 9, 24, 3, "generated:5");
  mr3d_bundle *trace = traced(&g, MR3D_FP32, true, n, places, weights);
  mr3d_drift_run *drift = drift_of(trace, &(mr3d_drift_options){.config = config, .weights = "generated:5", .tier = MR3D_FP32, .runs = total ? 1 : 0});
  mr3d_drift_conclude(drift, NULL, &verdict);
  snprintf(path, sizeof path, "/tmp/mr3d-page-%ld.html", (long)getpid());
  const char *const remarks[] = {"<script>alert(1)</script> & \"quoted\""};
  if (mr3d_drift_report_html(drift, &verdict, &(mr3d_drift_subject){.name = "a & b <c>", .reference = "generated:5", .n_remarks = 1, .remarks = remarks}, path, &error)) fail_msg("%s", error.message);
  FILE *file = fopen(path, "rb");
  char *text = mr3d_allocate(1 << 22, 1);
  text[fread(text, 1, (1 << 22) - 1, file)] = 0;
  fclose(file);
  unlink(path);
  mr3d_drift_verdict_clear(&verdict);
  mr3d_drift_free(&drift);
  mr3d_bundle_free(&trace);
  generation_free(&g);
  mr3d_weights_cache_free(&weights);
  return text;
}

/** Begin of the script: what stands before it is the page. */
static const char *end_of_page(const char *text) {
  const char *end = strstr(text, "<script");
  assert_non_null(end);
  return end;
}

/** The value of an attribute of the tag at `tag`; "" where it has none. */
static const char *attribute(const char *tag, const char *name, char value[400]) {
  char wanted[64];
  snprintf(wanted, sizeof wanted, " %s=\"", name);
  const char *end = strchr(tag, '>'), *at = strstr(tag, wanted);
  *value = 0;
  if (at && at < end) {
    at += strlen(wanted);
    snprintf(value, 400, "%.*s", (int)strcspn(at, "\""), at);
  }
  return value;
}

static bool is_tag(const char *at, const char *name) { return *at == '<' && strncmp(at + 1, name, strlen(name)) == 0 && strchr(" >", at[1 + strlen(name)]); }

static bool has_id(const char *text, const char *id, size_t n) {
  char wanted[80];
  snprintf(wanted, sizeof wanted, " id=\"%.*s\"", (int)n, id);
  const char *first = strstr(text, wanted);
  return first && !strstr(first + 1, wanted);
}

static void the_page_is_well_formed_and_loads_nothing(void **state) {
  (void)state;
  const char *const loads[] = {"https:", " src=", "@import", "url(", "<link", "<iframe", "<img", "fetch(", "import("};
  char *text = page("pairing/half-split-in-3d@2+qwen2-details/gelu@1", true);
  check_markup(text, true);
  for (size_t i = 0; i < sizeof loads / sizeof *loads; i++)
    if (strstr(text, loads[i])) fail_msg("the page has %s", loads[i]);
  assert_non_null(strstr(text, "&lt;script&gt;alert(1)"));
  assert_non_null(strstr(text, "<html lang=\"en\">"));
  assert_non_null(strstr(text, "name=\"viewport\""));
  assert_non_null(strstr(text, "prefers-color-scheme: dark"));
  free(text);
}

/** Everything that takes the keyboard, and every picture, has a name; what another element names is there, once. */
static void everything_that_is_used_or_seen_has_a_name(void **state) {
  (void)state;
  char *text = page("pairing/half-split-in-3d@2", true), value[400], role[400], tab[400];
  int controls = 0, pictures = 0, focusable = 0;
  for (const char *at = strchr(text, '<'); at && at < end_of_page(text); at = strchr(at + 1, '<')) {
    const bool control = is_tag(at, "input") || is_tag(at, "select"), picture = is_tag(at, "canvas") || is_tag(at, "svg");
    if (control) { /* inside its label, which has text */
      const char *label = at;
      while (label > text && !is_tag(label, "label") && !is_tag(label, "/label")) label--;
      if (!is_tag(label, "label") || label[7] == '<') fail_msg("no label: %.80s", at);
      controls++;
    }
    if (is_tag(at, "button") && strchr(at, '>')[1] == '<') fail_msg("a button without text: %.80s", at);
    attribute(at, "role", role);
    attribute(at, "tabindex", tab);
    if (picture && strcmp(attribute(at, "aria-hidden", value), "true") != 0) {
      const bool named = *attribute(at, "aria-label", value) || *attribute(at, "aria-labelledby", value);
      if (!*role || !named) fail_msg("a picture without role or name: %.120s", at);
      if (strcmp(role, "img") == 0 && *tab) fail_msg("a picture that takes keys is no img: %.120s", at);
      pictures++;
    }
    if (*tab) {
      if (strcmp(tab, "0") != 0) fail_msg("tabindex %s changes the order: %.80s", tab, at);
      if (!*role || !(*attribute(at, "aria-label", value) || *attribute(at, "aria-labelledby", value))) fail_msg("it takes the keyboard without role or name: %.120s", at);
      focusable++;
    }
    static const char *const refers[] = {"aria-labelledby", "aria-describedby"};
    for (int i = 0; i < 2; i++)
      for (const char *id = attribute(at, refers[i], value); *id; id += strspn(id, " ")) {
        const size_t n = strcspn(id, " ");
        if (!has_id(text, id, n)) fail_msg("%s \"%.*s\" is not there once: %.80s", refers[i], (int)n, id, at);
        id += n;
      }
    if (is_tag(at, "th") && !*attribute(at, "scope", value)) fail_msg("a heading of no scope: %.80s", at);
  }
  assert_int_equal(controls, 5);
  assert_int_equal(pictures, 4);
  assert_int_equal(focusable, 3); /* map, scene, the table that scrolls */
  assert_non_null(strstr(text, "id=\"here\" class=\"here\" role=\"status\"")); /* what the keys choose is told */
  free(text);
}

static void headings_skip_no_level_and_landmarks_are_there(void **state) {
  (void)state;
  char *text = page("pairing/half-split-in-3d@2", false);
  int level = 0, first = 0;
  for (const char *at = strstr(text, "<h"); at && at < end_of_page(text); at = strstr(at + 1, "<h")) {
    if (at[2] < '1' || at[2] > '6' || !strchr(" >", at[3])) continue;
    if (at[2] - '0' > level + 1) fail_msg("h%d is followed by %.60s", level, at);
    level = at[2] - '0';
    first += level == 1;
  }
  assert_int_equal(first, 1);
  assert_non_null(strstr(text, "<main>"));
  assert_non_null(strstr(text, "<header>"));
  free(text);
}

/** What colours say is said in words, too. */
static void colours_are_never_alone(void **state) {
  (void)state;
  char *text = page("pairing/half-split-in-3d@2", true);
  const char *list = strstr(text, "<ol class=\"prompt\"");
  assert_non_null(list);
  int off = 0;
  for (const char *at = list; (at = strstr(at, "<li class=\"off\">")); at++, off++) {
    const char *end = strstr(at, "</li>"), *word = strstr(at, "<em>off</em>");
    if (!word || word > end) fail_msg("a token that is off by its colour alone: %.60s", at);
  }
  assert_true(off > 3);
  const char *first = strstr(list, "<li class=\"first\">");
  assert_non_null(first);
  assert_true(strstr(first, "<strong>first</strong>") < strstr(first, "</li>"));
  for (const char *at = text; (at = strstr(at, "<tr class=\"fault\">")); at++) assert_true(strstr(at, " fault</td>") < strstr(at, "</tr>"));
  free(text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_page_is_well_formed_and_loads_nothing),
      cmocka_unit_test(everything_that_is_used_or_seen_has_a_name),
      cmocka_unit_test(headings_skip_no_level_and_landmarks_are_there),
      cmocka_unit_test(colours_are_never_alone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
