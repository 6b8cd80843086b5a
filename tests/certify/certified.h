/** A small golden set with profiles, keys, and certificates about it: what the tests of certificates share. */
#ifndef MR3D_TEST_CERTIFIED_H
#define MR3D_TEST_CERTIFIED_H

#include "../program.h"
#include "../conform/small_suite.h"
#include "../conform/in_folder.h"
#include "issue.h"
#include "text.h"

#define NONCE "000102030405060708090a0b0c0d0e0f"
#define OTHER_NONCE "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"

/** A case on rmsnorm; forty rows of it are enough for every rule. */
#define ROWS_CASE(id, level, rows)                                                                                                               \
  "{\"id\": \"rmsnorm/" id "\", \"title\": \"rmsnorm of forty rows\", \"why\": \"a test\", \"level\": \"" level "\", \"pitfalls\": [], \"tags\": [], " \
  "\"config\": " RMSNORM_CONFIG ", \"steps\": [{\"op\": \"rmsnorm\", \"inputs\": {\"x\": {\"shape\": [" rows ", 32], \"dtype\": \"tier\", \"dist\": \"normal\"}, "  \
  "\"weight\": {\"shape\": [32], \"dtype\": \"tier\", \"dist\": \"uniform\", \"lo\": 0.5, \"hi\": 2}}}]}"

#define WIDE_CASE(id, level) ROWS_CASE(id, level, "40")

#define TWELVE_CASES                                                                                                                       \
  WIDE_CASE("a", "L0") ", " WIDE_CASE("b", "L0") ", " WIDE_CASE("c", "L0") ", " WIDE_CASE("d", "L0") ", " WIDE_CASE("e", "L0") ", " WIDE_CASE("f", "L0") \
  ", " WIDE_CASE("g", "L0") ", " WIDE_CASE("h", "L1") ", " ROWS_CASE("i", "L2", "24") ", " ROWS_CASE("j", "L3", "24") ", " RMSNORM_CASE("small", "", "") ", "   \
  REFUSED_CASE("refused", "")

/** profiles.json of a golden set, version 1 of each list. */
static inline void write_profiles(const char *path) {
  mr3d_error error = {0};
  mr3d_suite *suite = NULL;
  if (mr3d_suite_open(path, NULL, &suite, &error) != MR3D_OK) fail_msg("%s", error.message);
  char *text = NULL;
  size_t size = 0;
  FILE *to = open_memstream(&text, &size);
  fprintf(to, "{\"format\": 1, \"profiles\": {");
  for (int p = 0; mr3d_profile_at(p); p++) {
    char root[MR3D_HEX_DIGEST], *list = mr3d_profile_list(mr3d_profile_at(p), suite);
    const size_t n = mr3d_merkle_of_lines(list, root);
    fprintf(to, "%s\"%s\": {\"version\": 1, \"cases\": %zu, \"root\": \"%s\"}", p ? ", " : "", mr3d_profile_at(p)->name, n, root);
    free(list);
  }
  fprintf(to, "}}");
  fclose(to);
  write_text(path, "profiles.json", text);
  free(text);
  mr3d_suite_close(&suite);
}

/** rules.json of it, too. */
static inline void write_lists(const char *path) {
  write_profiles(path);
  if (mr3d("golden rules --golden %s", path) != 0) fail_msg("%s", output);
}

/** The folder, a golden set in it, and the keys vendor.key, lab.key and stranger.key. */
static inline int make_certified(void **state) {
  make(state);
  make_set(folder, TWELVE_CASES);
  write_lists(folder);
  setenv("MR3D_GOLDEN", folder, 1);
  static const char *const keys[] = {"vendor", "lab", "stranger"};
  for (int i = 0; i < 3; i++) assert_int_equal(mr3d("keygen %s/%s.key", folder, keys[i]), 0);
  return 0;
}

/** `mr3d certify` by the vendor at fp32 with the profile decoder, to NAME in the folder; `more` options. Returns the exit status. */
static inline int certify(const char *backend, const char *name, const char *more) {
  return mr3d("certify --backend '%s' --profile decoder --tier fp32 --nonce " NONCE " --key %s/vendor.key -o %s/%s --quiet %s", backend, folder, folder, name, more);
}

static inline int verify(const char *name, const char *more) { return mr3d("verify %s/%s --key %s/vendor.key.pub %s", folder, name, folder, more); }

/** Certified before: the exit status must be 0. */
static inline void certify_well(const char *backend, const char *name, const char *more) {
  if (certify(backend, name, more) != 0) fail_msg("%s", output);
}

static inline mr3d_envelope *load_envelope(const char *name) {
  char path[600];
  mr3d_envelope *envelope = NULL;
  mr3d_error error = {0};
  snprintf(path, sizeof path, "%s/%s", folder, name);
  if (mr3d_envelope_load(path, &envelope, &error) != MR3D_OK) fail_msg("%s", error.message);
  return envelope;
}

static inline void load_key(const char *name, mr3d_secret_key *key) {
  char path[600];
  mr3d_error error = {0};
  snprintf(path, sizeof path, "%s/%s.key", folder, name);
  if (mr3d_secret_key_load(path, NULL, key, &error) != MR3D_OK) fail_msg("%s", error.message);
}

/** The statement of a certificate. Ownership: the caller's. */
static inline cJSON *statement_of(const char *name) {
  mr3d_envelope *envelope = load_envelope(name);
  cJSON *statement = cJSON_Parse(envelope->payload);
  assert_non_null(statement);
  mr3d_envelope_free(&envelope);
  return statement;
}

static inline cJSON *extension_of(cJSON *statement) {
  return cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(statement, "predicate"), MR3D_EXTENSION);
}

/** Writes a payload under signatures of these keys, separated by blanks. */
static inline void write_signed(const char *name, const char *payload, const char *keys) {
  char path[600], key_name[32];
  mr3d_error error = {0};
  mr3d_envelope *envelope = mr3d_envelope_new(MR3D_STATEMENT_TYPE, payload, strlen(payload));
  for (const char *at = keys; *at; at += strspn(at, " ")) {
    mr3d_secret_key key;
    snprintf(key_name, sizeof key_name, "%.*s", (int)strcspn(at, " "), at);
    load_key(key_name, &key);
    assert_int_equal(mr3d_envelope_sign(envelope, &key, &error), MR3D_OK);
    at += strcspn(at, " ");
  }
  snprintf(path, sizeof path, "%s/%s", folder, name);
  assert_int_equal(mr3d_envelope_save(envelope, path, &error), MR3D_OK);
  mr3d_envelope_free(&envelope);
}

static inline void remove_file(const char *name) {
  char path[600];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  remove(path);
}

#endif
