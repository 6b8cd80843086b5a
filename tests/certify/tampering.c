/** Tampering: every value of a certificate changed, removed, doubled and put in another place, with the signature as it was and, by the vendor himself, signed anew. */
#include <sodium.h>

#include "certified.h"
#include "file.h"

/* What the one who signs vouches for, and nothing else in the file or the suite can contradict. Signed anew, another value is another claim. */
static const char *const claims[] = {"commit", "spec", "version", "processor", "system", "compiler", "driver", "program", "sha256", "name", "active", "missing", "asked", "keeps", "reason", "mistake", "parts"};

/** A place in a tree: the indices of the children on the way. */
struct place {
  int depth, steps[12];
};

static cJSON *item_at(cJSON *root, const struct place *place, int depth) {
  for (int d = 0; d < depth; d++) {
    root = root->child;
    for (int i = 0; i < place->steps[d]; i++) root = root->next;
  }
  return root;
}

static int find_places(const cJSON *item, const struct place *here, struct place *places, int n) {
  int i = 0;
  for (const cJSON *child = item->child; child; child = child->next, i++) {
    struct place *place = &places[n++];
    *place = *here;
    place->steps[place->depth++] = i;
    n = find_places(child, place, places, n);
  }
  return n;
}

static bool is_listed(const char *word, int n, const char *const list[]) {
  for (int i = 0; i < n; i++)
    if (strcmp(list[i], word) == 0) return true;
  return false;
}

/** The key nearest above a place, its own included; `is_claim` where it or one above it is a claim. */
static const char *key_of(cJSON *root, const struct place *place, bool *is_claim) {
  const char *key = "";
  bool in_configuration = false;
  *is_claim = false;
  for (int d = 1; d <= place->depth; d++) {
    const cJSON *item = item_at(root, place, d);
    if (!item->string || strcmp(key, "waivers") == 0) continue; /* within, it is a signed file of its own */
    key = item->string;
    in_configuration = in_configuration || is_listed(key, 4, (const char *const[]){"configuration", "suite", "profile", "challenge"});
    if (is_listed(key, (int)(sizeof claims / sizeof *claims), claims) && !(in_configuration && strcmp(key, "commit") != 0)) *is_claim = true;
  }
  return key;
}

enum { CHANGE, REMOVE, DOUBLE, MOVE, N_WAYS };
static const char *const ways[] = {"changed", "removed", "doubled", "moved"};

/** Puts an item into a list of children in front of the `at`-th; cJSON_InsertItemInArray loses some. */
static void put(cJSON *parent, cJSON *item, int at) {
  cJSON **link = &parent->child, *last = NULL;
  for (int i = 0; i < at && *link; i++) last = *link, link = &last->next;
  item->next = *link;
  *link = item;
  last = NULL;
  for (cJSON *child = parent->child; child; last = child, child = child->next) child->prev = last;
  parent->child->prev = last;
}

/** Tampers with one place; false where that cannot be done there, or changes nothing. */
static bool tamper(cJSON *root, const struct place *place, int way) {
  cJSON *parent = item_at(root, place, place->depth - 1), *item = item_at(root, place, place->depth), *other = item->next;
  char text[4000];
  switch (way) {
  case CHANGE:
    if (cJSON_IsString(item)) {
      snprintf(text, sizeof text, "%.3900sx", item->valuestring);
      if (strlen(item->valuestring) > 3900) return false;
      cJSON_SetValuestring(item, text);
    } else if (cJSON_IsNumber(item)) cJSON_SetNumberValue(item, item->valuedouble + 1);
    else if (cJSON_IsBool(item)) item->type ^= cJSON_True | cJSON_False;
    else if (cJSON_IsNull(item)) item->type = cJSON_True;
    else return false;
    return true;
  case REMOVE: cJSON_Delete(cJSON_DetachItemViaPointer(parent, item)); return true;
  case DOUBLE:
    put(parent, cJSON_Duplicate(item, true), place->steps[place->depth - 1]);
    return true;
  default:
    if (!other || (cJSON_IsArray(parent) && cJSON_Compare(item, other, true))) return false;
    put(parent, cJSON_DetachItemViaPointer(parent, item), place->steps[place->depth - 1] + 1);
    return true;
  }
}

/** One certificate, all of its places in all ways; returns how many were refused. `keys`: who signs anew, NULL: nobody. */
static int tamper_everywhere(const char *name, const char *keys, const char *words) {
  cJSON *whole = statement_of(name);
  struct place *places = calloc(4000, sizeof *places), top = {0};
  const int n = find_places(whole, &top, places, 0);
  mr3d_envelope *original = load_envelope(name);
  int refused = 0;
  assert_true(n < 4000);
  for (int i = 0; i < n; i++)
    for (int way = 0; way < N_WAYS; way++) {
      cJSON *root = cJSON_Parse(original->payload);
      bool is_claim = false;
      char key[100];
      snprintf(key, sizeof key, "%s", key_of(root, &places[i], &is_claim));
      const bool in_waivers = strcmp(key, "waivers") == 0 && strcmp(item_at(root, &places[i], places[i].depth)->string ? item_at(root, &places[i], places[i].depth)->string : "", key) != 0;
      const bool in_object = cJSON_IsObject(item_at(root, &places[i], places[i].depth - 1));
      if (!tamper(root, &places[i], way)) {
        cJSON_Delete(root);
        continue;
      }
      char *payload = cJSON_PrintUnformatted(root);
      cJSON_Delete(root);
      if (keys) write_signed("tampered.json", payload, keys);
      else {
        char path[600];
        mr3d_error error = {0};
        mr3d_envelope *tampered = mr3d_envelope_new(MR3D_STATEMENT_TYPE, payload, strlen(payload));
        tampered->n_signatures = original->n_signatures;
        memcpy(tampered->signatures, original->signatures, sizeof tampered->signatures);
        snprintf(path, sizeof path, "%s/tampered.json", folder);
        assert_int_equal(mr3d_envelope_save(tampered, path, &error), MR3D_OK);
        mr3d_envelope_free(&tampered);
      }
      cJSON_free(payload);
      const int status = verify("tampered.json", words);
      const char *says = way == DOUBLE && in_object ? "appears twice" : way == MOVE && in_object && !in_waivers ? "not in its place" : key;
      const bool is_refused = status == 2 && strstr(output, "REFUSED");
      if (!keys) says = "does not fit the content: the file was changed after it was signed";
      else if (is_claim && (way == CHANGE || !in_object) && !is_refused) continue; /* another claim, signed */
      if (!is_refused) fail_msg("%s %s in %s was accepted (%d): %.600s", key, ways[way], name, status, output);
      if (!strstr(output, says)) fail_msg("%s %s in %s: refused, but \"%s\" is not said: %.600s", key, ways[way], name, says, output);
      refused++;
    }
  mr3d_envelope_free(&original);
  cJSON_Delete(whole);
  free(places);
  return refused;
}

static void nothing_can_be_changed_under_a_signature(void **state) {
  (void)state;
  certify_well("builtin:emulated", "good.json", "");
  assert_int_equal(verify("good.json", "--nonce " NONCE), 0);
  const int n = tamper_everywhere("good.json", NULL, "");
  printf("%d variants under the old signature, all refused\n", n);
  assert_true(n >= 200);
}

static void what_follows_from_the_rest_cannot_be_changed_by_the_signer_either(void **state) {
  (void)state;
  const int n = tamper_everywhere("good.json", "vendor", "");
  printf("%d variants signed anew by the vendor, all refused\n", n);
  assert_true(n >= 200);
}

/** A certificate that has all there is: parts, waivers, reasons. */
static void nor_in_one_that_was_merged_and_has_waivers(void **state) {
  (void)state;
  write_text(folder, "waivers.json",
             "{\"format\": 1, \"waivers\": [{\"cases\": \"rmsnorm/*\", \"tiers\": [\"fp32\"], \"reason\": \"eps is under work\", \"issue\": \"https://example.com/1\", \"expires\": \"2999-12-31\"}]}");
  assert_int_equal(mr3d("sign %s/waivers.json --key %s/vendor.key -o %s/waivers.signed", folder, folder, folder), 0);
  assert_int_equal(certify("mutant:qwen2-details/weight-plus-one", "p1.json", "--op rmsnorm --shard 1/2"), 0);
  assert_int_equal(certify("mutant:qwen2-details/weight-plus-one", "p2.json", "--op rmsnorm --shard 2/2"), 0);
  mr3d("merge %s/p2.json %s/p1.json --key %s/vendor.key -o %s/merged.json --waivers %s/waivers.signed", folder, folder, folder, folder, folder);
  assert_said("over-broad"); /* the refusal passes, so this waiver covers too much; the report of failure has all parts of a statement all the same */
  const int n = tamper_everywhere("merged.json.failure", "vendor", "--op rmsnorm");
  printf("%d variants of a merged report with waivers, all refused\n", n);
  assert_true(n >= 200);
}

/** The same JSON in other bytes is another file: blanks, numbers, escapes. */
static void there_is_one_text_for_a_statement(void **state) {
  (void)state;
  static const char *const forms[][2] = {{"{\"_type\":", "{ \"_type\":"}, {"\"failed\":0", "\"failed\":0.0"}, {"\"failed\":0", "\"failed\":0e1"}, {"\"failed\":0", "\"failed\":-0"}, {"\"failed\":0", "\"failed\":0E0"}, {"\"conforms\"", "\"\\u0063onforms\""}, {"null", "null "}};
  mr3d_envelope *envelope = load_envelope("good.json");
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    char *text = NULL;
    size_t size = 0;
    const char *at = strstr(envelope->payload, forms[i][0]);
    assert_non_null(at);
    FILE *to = open_memstream(&text, &size);
    fprintf(to, "%.*s%s%s", (int)(at - envelope->payload), envelope->payload, forms[i][1], at + strlen(forms[i][0]));
    fclose(to);
    write_signed("tampered.json", text, "vendor");
    assert_int_equal(verify("tampered.json", ""), 2);
    assert_said("its text is not as mr3d writes it");
    free(text);
  }
  mr3d_envelope_free(&envelope);
}

/* ---- results ---- */

/** The leaves of a certificate. Ownership: the caller's. */
static char *leaves_of(const char *name) {
  cJSON *statement = statement_of(name);
  char *packed = NULL;
  void *leaves = NULL;
  size_t size, n;
  mr3d_error error = {0};
  assert_int_equal(mr3d_text_from_base64(cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(extension_of(statement), "results"), "leaves"), "leaves", &packed, &size, &error), MR3D_OK);
  assert_int_equal(mr3d_gunzip(packed, size, 1 << 24, &leaves, &n, &error), MR3D_OK);
  char *text = strndup(leaves, n);
  free(leaves), free(packed);
  cJSON_Delete(statement);
  return text;
}

/** Leaves with one text in place of another, packed, rooted and signed anew. */
static int with_leaves(const char *from, const char *to, bool every) {
  cJSON *statement = statement_of("good.json"), *results = cJSON_GetObjectItemCaseSensitive(extension_of(statement), "results");
  char root[MR3D_HEX_DIGEST];
  void *again = NULL;
  size_t n_again;
  mr3d_error error = {0};
  char *text = NULL;
  size_t length = 0;
  FILE *stream = open_memstream(&text, &length);
  char *old = leaves_of("good.json"), *at = old, *found;
  if (!strstr(old, from)) fail_msg("\"%s\" is not in the leaves: %.2000s", from, old);
  while ((found = strstr(at, from)) && (every || at == old)) {
    fwrite(at, 1, (size_t)(found - at), stream);
    fputs(to, stream);
    at = found + strlen(from);
  }
  fputs(at, stream);
  fclose(stream);
  mr3d_merkle_of_lines(text, root);
  assert_int_equal(mr3d_gzip(text, length, &again, &n_again, &error), MR3D_OK);
  char *base64 = mr3d_text_to_base64(again, n_again);
  cJSON_ReplaceItemInObjectCaseSensitive(results, "leaves", cJSON_CreateString(base64));
  cJSON_ReplaceItemInObjectCaseSensitive(results, "root", cJSON_CreateString(root));
  char *payload = cJSON_PrintUnformatted(statement);
  write_signed("tampered.json", payload, "vendor");
  cJSON_free(payload), free(base64), free(again), free(text), free(old);
  cJSON_Delete(statement);
  return verify("tampered.json", "");
}

/** The first line of the leaves that begins so, whole. */
static void leaf(const char *name, char line[1000]) {
  char *text = leaves_of("good.json"), *at = strstr(text, name);
  assert_non_null(at);
  snprintf(line, 1000, "%.*s\n", (int)strcspn(at, "\n"), at);
  free(text);
}

static void numbers_that_do_not_allow_their_verdict_are_refused(void **state) {
  (void)state;
  char a[1000], b[1000], changed[2100], *at;
  leaf("rmsnorm/a@fp32 ", a), leaf("rmsnorm/b@fp32 ", b);
  const struct { const char *rule, *value, *says; } numbers[] = {
      {"element=", "40800001", "breaks a limit: element is 4"}, {"slice=", "40000001", "breaks a limit: slice is 2"},
      {"tensor=", "3F800001", "breaks a limit: tensor is 1"}, {"gain=", "3F800000", "breaks a limit: gain"},
      {"element=", "7FC00000", "which no statistic can be"}, {"element=", "7F800000", "breaks a limit"}, {"element=", "BF800000", "which no statistic can be"},
      {"element=", "00000000", "expected 0 for zero"},
      {"element=", "80000000", "expected 0 for zero"}, {"element=", "3f800000", "expected a number of 8 hexadecimal digits"}};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    snprintf(changed, sizeof changed, "%s", a);
    at = strstr(changed, numbers[i].rule);
    assert_non_null(at);
    memcpy(at + strlen(numbers[i].rule), numbers[i].value, 8);
    assert_int_equal(with_leaves(a, changed, false), 2);
    assert_said(numbers[i].says);
  }
  /* a limit of one's own: too wide, at a rule that has none, or none where one is due */
  snprintf(changed, sizeof changed, "%s", a);
  at = strchr(strstr(changed, "gain="), '/');
  memcpy(at + 1, "42C80000", 8);
  assert_int_equal(with_leaves(a, changed, false), 2);
  assert_said("says its limit was 100; this suite's lies between");
  at = strchr(strstr(changed, "gain="), '/');
  snprintf(at, 2, "\n");
  assert_int_equal(with_leaves(a, changed, false), 2);
  assert_said("gain lacks its limit");
  assert_int_equal(with_leaves(",slice=", "/40000000,slice=", false), 2);
  assert_said("element has a limit of its own");
  static const char *const zeros[] = {"-0", "+0", "00", "0.0", "80000000"};
  for (size_t i = 0; i < sizeof zeros / sizeof *zeros; i++) {
    snprintf(changed, sizeof changed, "finite=%s,", zeros[i]);
    assert_int_equal(with_leaves("finite=0,", changed, false), 2);
  }
}

/** Where a rule applies to an answer, by the number of its rows and elements, a leaf cannot say that it does not. */
static void no_rule_can_be_left_out(void **state) {
  (void)state;
  static const char *const rules[] = {"element", "slice", "tensor", "gain"}, *const tests[] = {"rmsnorm/a@fp32 ", "rmsnorm/d@fp32 "};
  char line[1000], changed[2100], says[200];
  for (size_t t = 0; t < 2; t++)
    for (size_t i = 0; i < 4; i++) {
      leaf(tests[t], line);
      char *at = strstr(line, rules[i]);
      assert_non_null(at);
      at += strlen(rules[i]);
      snprintf(changed, sizeof changed, "%.*s~%s", (int)(at - line), line, at + strcspn(at, ",\n "));
      assert_int_equal(with_leaves(line, changed, false), 2);
      snprintf(says, sizeof says, "results: %.14s: leaves out the rule %s for \"y\", which this suite applies to this answer", tests[t], rules[i]);
      assert_said(says);
    }
  leaf("rmsnorm/small@fp32 ", line); /* three rows: the rules that need many do not apply, and good.json says so */
  assert_non_null(strstr(line, "gain~"));
  /* the other variants of a case are bound by the same */
  char *text = strstr(leaves_of("good.json"), "#seed passed|");
  assert_non_null(text);
  const char *begin = text;
  while (begin[-1] != '\n') begin--;
  snprintf(line, sizeof line, "%.*s\n", (int)strcspn(begin, "\n"), begin);
  text = strstr(line, "element=");
  snprintf(changed, sizeof changed, "%.*selement~%s", (int)(text - line), line, text + strcspn(text, ","));
  assert_int_equal(with_leaves(line, changed, false), 2);
  assert_said("leaves out the rule element");
}

/** What equals the binary64 reference at every turn is the reference, or forged: a single answer may, not most. */
static void answers_below_fp64_are_not_mostly_exact(void **state) {
  (void)state;
  char *text = leaves_of("good.json"), exact[9000] = "", *to = exact;
  for (const char *line = text; *line; line += strcspn(line, "\n") + 1) {
    const char *y = strstr(line, " y:");
    const int length = (int)strcspn(line, "\n");
    if (y && y < line + length) to += sprintf(to, "%.*s y:exact=0\n", (int)(y - line), line);
    else to += sprintf(to, "%.*s\n", length, line);
  }
  assert_int_equal(with_leaves(text, exact, false), 2); /* the counts no longer fit */
  assert_said("counts.equal: the file says 0, but from its results and this suite follows 13");
  /* nor without any error, whatever the rules are called */
  to = exact;
  for (const char *line = text; *line; line += strcspn(line, "\n") + 1) {
    const char *element = strstr(line, "element=");
    const int length = (int)strcspn(line, "\n"), before = element && element < line + length ? (int)(element - line) + 8 : length;
    to += sprintf(to, "%.*s", before, line);
    if (before < length) to += sprintf(to, "0%.*s", length - before - 8, line + before + 8);
    *to++ = '\n', *to = '\0';
  }
  assert_int_equal(with_leaves(text, exact, false), 2);
  assert_said("counts.equal: the file says 0, but from its results and this suite follows 13");
  free(text);
  certify_well("builtin:reference", "exact.json", "");
  assert_int_equal(verify("exact.json", ""), 2);
  assert_said("results: 13 of 13 tests below fp64 with floating outputs are recorded without any error against the binary64 reference");
  assert_int_equal(verify("exact.json", "--replay 2 --backend builtin:reference"), 0); /* it is the reference */
  certify_well("builtin:emulated", "honest.json", "");
  assert_int_equal(verify("honest.json", ""), 0);
  cJSON *statement = statement_of("honest.json"), *counts = cJSON_GetObjectItemCaseSensitive(extension_of(statement), "counts");
  assert_true(cJSON_GetObjectItemCaseSensitive(counts, "fixed")->valuedouble >= 1); /* the refusal */
  assert_true(cJSON_GetObjectItemCaseSensitive(counts, "equal")->valuedouble == 0 && cJSON_GetObjectItemCaseSensitive(counts, "floating")->valuedouble == 13);
  cJSON_Delete(statement);
}

static void what_was_not_compared_cannot_have_passed(void **state) {
  (void)state;
  char a[1000], b[1000], changed[2100];
  leaf("rmsnorm/a@fp32 ", a), leaf("rmsnorm/b@fp32 ", b);
  assert_int_equal(with_leaves(a, "rmsnorm/a@fp32 passed|answer\n", false), 2);
  assert_said("says passed, but the output \"y\" of rmsnorm was not compared");
  assert_int_equal(with_leaves(a, "rmsnorm/a@fp32 passed\n", false), 2);
  assert_said("has 0 of the case's 1 steps");
  assert_int_equal(with_leaves(a, "rmsnorm/a@fp32 passed|error\n", false), 2);
  assert_said("was not answered");
  assert_int_equal(with_leaves(a, "rmsnorm/a@fp32 passed|unsupported\n", false), 2);
  assert_said("was not answered");
  assert_int_equal(with_leaves(a, "rmsnorm/a@fp32 passed|answer y!\n", false), 2);
  assert_said("could not be compared");
  assert_int_equal(with_leaves(a, "rmsnorm/a@fp32 passed|answer z:exact=0\n", false), 2);
  assert_said("\"z\" is no output of rmsnorm");
  assert_int_equal(with_leaves(a, "rmsnorm/a@fp32 passed|answer y:exact=0 y:exact=0\n", false), 2);
  assert_said("stands twice");
  assert_int_equal(with_leaves(a, "rmsnorm/a@fp32 passed|answer y:finite=0\n", false), 2);
  assert_said("lacks the rule element");
  assert_int_equal(with_leaves(a, "rmsnorm/a@fp32 passed|answer y:exact~\n", false), 2);
  assert_said("exact cannot be left untested");
  assert_int_equal(with_leaves(a, "rmsnorm/a@fp32 passed|answer y:exact=0|answer y:exact=0\n", false), 2);
  assert_said("has more steps than the case");
  assert_int_equal(with_leaves(",slice=", ",sliced=", false), 2);
  assert_said("lacks the rule slice");
  assert_int_equal(with_leaves("rmsnorm/refused@fp32 passed|error", "rmsnorm/refused@fp32 passed|answer y:exact=0", false), 2);
  assert_said("must be refused and was not");
  assert_int_equal(with_leaves("rmsnorm/refused@fp32 passed|error", "rmsnorm/refused@fp32 passed|error y:exact=0", false), 2);
  assert_said("expected no tensor behind a reply that is no answer");
  assert_int_equal(with_leaves(a, "", false), 2);
  assert_said("expected the test rmsnorm/a@fp32 next");
  snprintf(changed, sizeof changed, "%s%s", a, a);
  assert_int_equal(with_leaves(a, changed, false), 2);
  assert_said("is missing, doubled, out of order");
  assert_int_equal(with_leaves("rmsnorm/b@", "rmsnorm/z@", false), 2);
  assert_said("expected the test rmsnorm/b@fp32 next, found \"rmsnorm/z@fp32\"");
  assert_int_equal(with_leaves("rmsnorm/a@fp32 passed", "rmsnorm/a@fp32 failed", false), 2);
  assert_said("reasons: that of rmsnorm/a@fp32, which did not pass, is missing");
  assert_int_equal(with_leaves("rmsnorm/a@fp32 passed", "rmsnorm/a@fp32 broken", false), 2);
  assert_said("expected passed, failed or skipped");
  assert_int_equal(with_leaves("#again passed", "#again failed", false), 2);
  assert_said("which did not pass, is missing");
  assert_int_equal(with_leaves("\n", "\r\n", false), 2);
  assert_int_equal(with_leaves("rmsnorm/refused@fp32 passed|error\n", "rmsnorm/refused@fp32 passed|error\nrmsnorm/zz@fp32 passed|error\n", false), 2);
}

/* ---- other tricks ---- */

static void a_certificate_for_another_nonce_key_profile_or_suite_is_refused(void **state) {
  (void)state;
  assert_int_equal(verify("good.json", "--nonce " OTHER_NONCE), 2);
  assert_said("it answers another nonce than yours");
  assert_int_equal(verify("good.json", "--profile scan"), 2);
  assert_said("it is about decoder, not scan");
  assert_int_equal(verify("good.json", "--tier bf16"), 2);
  assert_said("not about all of the tiers");
  assert_int_equal(mr3d("verify %s/good.json --key %s/stranger.key.pub", folder, folder), 2);
  assert_said("signature: none is by key");
  assert_int_equal(mr3d("verify %s/good.json --key %s/vendor.key.pub,%s/stranger.key.pub", folder, folder, folder), 2);
  /* claims of another nonce or profile, signed: then the tests are others */
  cJSON *statement = statement_of("good.json");
  cJSON_SetValuestring(cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(extension_of(statement), "challenge"), "nonce"), OTHER_NONCE);
  char *payload = cJSON_PrintUnformatted(statement);
  write_signed("tampered.json", payload, "vendor");
  cJSON_free(payload);
  assert_int_equal(verify("tampered.json", ""), 2);
  assert_said("expected the test");
  cJSON_Delete(statement);
  statement = statement_of("good.json");
  cJSON_SetValuestring(cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(extension_of(statement), "profile"), "name"), "core");
  payload = cJSON_PrintUnformatted(statement);
  write_signed("tampered.json", payload, "vendor");
  cJSON_free(payload);
  assert_int_equal(verify("tampered.json", ""), 2);
  cJSON_Delete(statement);
  statement = statement_of("good.json");
  cJSON_SetValuestring(cJSON_GetObjectItemCaseSensitive(extension_of(statement), "issued"), "2999-01-01T00:00:00Z");
  payload = cJSON_PrintUnformatted(statement);
  write_signed("tampered.json", payload, "vendor");
  cJSON_free(payload);
  assert_int_equal(verify("tampered.json", ""), 2);
  assert_said("issued: 2999-01-01T00:00:00Z lies in the future");
  cJSON_Delete(statement);
  /* the same certificate where another golden set is installed */
  assert_int_equal(run_command("cd \"$MR3D_GOLDEN\" && mkdir other && cp -r *.json set other && sed -i 's/forty rows/40 rows/' other/cases.json"), 0);
  char words[700];
  snprintf(words, sizeof words, "--golden %s/other", folder);
  assert_int_equal(verify("good.json", words), 2);
  assert_said("configuration[1].digest");
}

static void signatures_themselves_cannot_be_tampered_with(void **state) {
  (void)state;
  char path[600], pair[1200];
  mr3d_error error = {0};
  snprintf(path, sizeof path, "%s/tampered.json", folder);
  assert_int_equal(mr3d("sign %s/good.json --key %s/lab.key -o %s/both.json", folder, folder, folder), 0);
  snprintf(pair, sizeof pair, "verify %s/tampered.json --key %s/vendor.key.pub,%s/lab.key.pub", folder, folder, folder);
  for (int s = 0; s < 2; s++)
    for (int i = 0; i < 64; i++) {
      mr3d_envelope *envelope = load_envelope("both.json");
      envelope->signatures[s].bytes[i] ^= (unsigned char)(1 << i % 8);
      assert_int_equal(mr3d_envelope_save(envelope, path, &error), MR3D_OK);
      assert_int_equal(mr3d("%s", pair), 2);
      assert_said("does not fit the content");
      mr3d_envelope_free(&envelope);
    }
  mr3d_envelope *envelope = load_envelope("both.json");
  assert_int_equal(mr3d_envelope_save(envelope, path, &error), MR3D_OK);
  assert_int_equal(mr3d("%s", pair), 0); /* as it is it holds */
  assert_int_equal(verify("both.json", ""), 0);
  assert_said("was not checked; give its public key");
  memcpy(envelope->signatures[1].bytes, envelope->signatures[0].bytes, 64); /* the one's signature under the other's name */
  assert_int_equal(mr3d_envelope_save(envelope, path, &error), MR3D_OK);
  assert_int_equal(mr3d("%s", pair), 2);
  envelope->n_signatures = 1;
  assert_int_equal(mr3d_envelope_save(envelope, path, &error), MR3D_OK);
  assert_int_equal(mr3d("%s", pair), 2);
  assert_said("signature: none is by key");
  mr3d_envelope_free(&envelope);
  /* another type of payload, signed by the vendor himself: what was signed for one purpose serves no other */
  mr3d_secret_key key;
  load_key("vendor", &key);
  envelope = load_envelope("good.json");
  free(envelope->type);
  envelope->type = strdup("text/plain"), envelope->n_signatures = 0;
  assert_int_equal(mr3d_envelope_sign(envelope, &key, &error), MR3D_OK);
  assert_int_equal(mr3d_envelope_save(envelope, path, &error), MR3D_OK);
  assert_int_equal(verify("tampered.json", ""), 2);
  assert_said("payloadType is text/plain");
  mr3d_envelope_free(&envelope);
}

static void a_file_cut_short_or_of_other_bytes_is_refused(void **state) {
  (void)state;
  size_t size;
  char *text = read_bytes(folder, "good.json", &size);
  for (size_t part = 0; part < 40; part++) {
    char *cut = strndup(text, size * part / 40);
    write_text(folder, "tampered.json", cut);
    assert_int_equal(verify("tampered.json", ""), 2);
    assert_said("envelope");
    free(cut);
  }
  for (size_t i = 0; i + 1 < size; i += size / 60) { /* one byte, anywhere */
    char before = text[i];
    text[i] = before == 'A' ? 'B' : 'A';
    write_text(folder, "tampered.json", text);
    assert_int_equal(verify("tampered.json", ""), 2);
    text[i] = before;
  }
  free(text);
  assert_int_equal(verify("nothing.json", ""), 1); /* not there: could not check */
}

/** Nothing of what a terminal would obey: controls, C1 controls, marks that turn the direction of writing; and no line of a file's own. */
static void assert_harmless(void) {
  static const char *const commands[] = {"\033", "\r", "\x07", "\xC2\x9B", "\xE2\x80\xAE", "\xE2\x81\xA6", "\xE2\x80\xA8", "\nforged"};
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    if (strstr(output, commands[i])) fail_msg("command %zu reaches the terminal: %s", i, output);
}

/** Whatever a file says, in whichever place, is said as plain text. */
static void no_file_speaks_to_the_terminal(void **state) {
  (void)state;
  static const char *const evil[] = {"\\u001b[2J", "\\r", "\\u0007", "\\u009b2J", "\\u202e", "\\u2066", "\\u2028", "\\nforged: conforms"};
  mr3d_envelope *whole = load_envelope("good.json");
  char *payload = mr3d_text_to_base64(whole->payload, whole->size);
  mr3d_envelope_free(&whole);
  for (size_t i = 0; i < sizeof evil / sizeof *evil; i++) {
    char *text = NULL;
    /* in the envelope: the type of payload, a key */
    assert_true(asprintf(&text, "{\"payload\":\"%s\",\"payloadType\":\"x%s\",\"signatures\":[]}", payload, evil[i]) > 0);
    write_text(folder, "evil.json", text);
    free(text);
    assert_int_equal(verify("evil.json", ""), 2);
    assert_harmless();
    assert_int_equal(mr3d("merge %s/evil.json --key %s/vendor.key -o %s/never.json", folder, folder, folder), 1);
    assert_harmless();
    assert_int_equal(mr3d("sign %s/evil.json --key %s/lab.key -o %s/never.json", folder, folder, folder), 1);
    assert_harmless();
    assert_int_equal(mr3d("verify %s/good.json --key %s/evil.json", folder, folder), 1);
    assert_harmless();
    assert_true(asprintf(&text, "{\"pay%s\":1}", evil[i]) > 0);
    write_text(folder, "evil.json", text);
    free(text);
    assert_int_equal(verify("evil.json", ""), 2);
    assert_harmless();
    /* in a signed statement: the backend's name, a key */
    mr3d_envelope *envelope = load_envelope("good.json");
    static const char *const places[] = {"\"name\":\"", "{\"spec"};
    for (int p = 0; p < 2; p++) {
      const char *at = strstr(strstr(envelope->payload, "\"backend\":"), places[p]) + strlen(places[p]);
      assert_true(asprintf(&text, "%.*s%s%s", (int)(at - envelope->payload), envelope->payload, evil[i], at) > 0);
      write_signed("evil.json", text, "vendor");
      free(text);
      assert_int_equal(verify("evil.json", ""), 2);
      assert_said("control characters");
      assert_harmless();
    }
    mr3d_envelope_free(&envelope);
  }
  free(payload);
  static const char *const raw[] = {"\033[2J", "\r", "\xC2\x9B", "\xE2\x80\xAE"}; /* in the leaves */
  for (size_t i = 0; i < sizeof raw / sizeof *raw; i++) {
    char leaf_name[64];
    snprintf(leaf_name, sizeof leaf_name, "rmsnorm/b%s@", raw[i]);
    assert_int_equal(with_leaves("rmsnorm/b@", leaf_name, false), 2);
    assert_said("results: leaves must be lines of printable ASCII");
    assert_harmless();
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_can_be_changed_under_a_signature), cmocka_unit_test(what_follows_from_the_rest_cannot_be_changed_by_the_signer_either),
                                     cmocka_unit_test(nor_in_one_that_was_merged_and_has_waivers), cmocka_unit_test(there_is_one_text_for_a_statement),
                                     cmocka_unit_test(numbers_that_do_not_allow_their_verdict_are_refused),
                                     cmocka_unit_test(no_rule_can_be_left_out), cmocka_unit_test(answers_below_fp64_are_not_mostly_exact), cmocka_unit_test(what_was_not_compared_cannot_have_passed), cmocka_unit_test(a_certificate_for_another_nonce_key_profile_or_suite_is_refused),
                                     cmocka_unit_test(signatures_themselves_cannot_be_tampered_with), cmocka_unit_test(a_file_cut_short_or_of_other_bytes_is_refused), cmocka_unit_test(no_file_speaks_to_the_terminal)};
  return cmocka_run_group_tests(tests, make_certified, drop);
}
