/** mr3d merge: the parts of a run on several machines become one certificate. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "issue.h"
#include "signing.h"
#include "text.h"

static mr3d_status open_part(const mr3d_suite *suite, const char *path, int n_keys, const mr3d_public_key keys[], const mr3d_challenge *due, mr3d_claims *claims, char digest[65], mr3d_error *error) {
  mr3d_envelope *envelope = NULL;
  mr3d_conclusion c;
  mr3d_status status = mr3d_envelope_load(path, &envelope, error);
  if (status != MR3D_OK) return status;
  if (strcmp(envelope->type, MR3D_STATEMENT_TYPE) != 0) status = mr3d_fail(error, MR3D_INVALID, "this is no part of a certificate, but %.80s", envelope->type);
  if (status == MR3D_OK) status = mr3d_signed_by_one(envelope, n_keys, keys, error);
  if (status == MR3D_OK) status = mr3d_statement_check(suite, envelope->payload, envelope->size, claims, &c, error);
  if (status == MR3D_OK && due->n_bytes > 0 && !mr3d_challenge_equal(due, &claims->scope.challenge))
    status = mr3d_fail(error, MR3D_INVALID, "it answers another nonce than that of --nonce: it is left from another run, so judge that shard again");
  mr3d_text_digest(envelope->payload, envelope->size, digest);
  mr3d_envelope_free(&envelope);
  return status == MR3D_OK ? MR3D_OK : mr3d_fail_in(error, "%s", path);
}

int mr3d_command_merge(int argc, char **argv) {
  const char *key_path = NULL, *passphrase_file = NULL, *part_keys = NULL, *out = NULL, *nonce = NULL, *waivers_path = NULL, *waiver_keys = NULL, *golden = NULL;
  const mr3d_option table[] = {
      MR3D_KEY_OPTIONS(&key_path, &passphrase_file),
      MR3D_CERTIFICATE_OPTIONS(&out, &waivers_path, &waiver_keys),
      {"--part-key", "LIST", MR3D_OPTION_TEXT, &part_keys, "public keys that the parts may be signed with (default: that of --key)"},
      {"--nonce", "HEX", MR3D_OPTION_TEXT, &nonce, "that of this run: a part that answers another is refused by its name"},
      {"--golden", "DIR", MR3D_OPTION_TEXT, &golden, "the golden set"},
      {NULL, NULL, MR3D_OPTION_FLAG, NULL, NULL},
  };
  const mr3d_usage usage = {"mr3d merge PART PART ... --key FILE -o FILE [OPTION ...]",
                            "Checks the parts that mr3d certify --shard wrote, all of them and each once, and signs what they make together: verdict and numbers are those of one run.\n"
                            "Exit status: 0 certificate written, 2 report of failure written, 1 nothing written.\n",
                            1, 1024, "the parts are missing: mr3d merge part-1.json part-2.json --key vendor.key -o certificate.json"};
  int n = 0, status = mr3d_options_parse(&usage, table, argc, argv, &n);
  if (status >= 0) return status;
  if (!key_path || !out) return mr3d_complain("%s is missing\nUsage: %s", key_path ? "-o" : "--key", usage.line);
  mr3d_error error = {0};
  char golden_dir[4096], failure[4200];
  snprintf(failure, sizeof failure, "%.4000s.failure", out);
  if (mr3d_new_file(out, &error) != MR3D_OK || mr3d_new_file(failure, &error) != MR3D_OK) return mr3d_complain("%s", error.message);
  mr3d_secret_key key = {0};
  mr3d_public_key parts_known[MR3D_MAX_KEYS];
  mr3d_suite *suite = NULL;
  mr3d_envelope *waivers = NULL;
  mr3d_claims *parts = mr3d_allocate(n, sizeof *parts), claims = {0};
  char(*digests)[65] = mr3d_allocate(n, sizeof *digests), *payload = NULL;
  mr3d_conclusion c;
  mr3d_challenge due = {0};
  int n_parts_known = 0;
  mr3d_status done = mr3d_find_golden(golden, golden_dir, &error);
  if (done == MR3D_OK) done = mr3d_suite_open(golden_dir, NULL, &suite, &error);
  if (done == MR3D_OK && nonce) done = mr3d_challenge_parse(nonce, &due, &error);
  if (done == MR3D_OK) done = mr3d_open_key(key_path, passphrase_file, &key, &error);
  if (done == MR3D_OK) done = mr3d_load_keys(part_keys, &n_parts_known, parts_known, &error);
  if (n_parts_known == 0) parts_known[n_parts_known++] = key.public;
  for (int i = 0; i < n && done == MR3D_OK; i++) done = open_part(suite, argv[i], n_parts_known, parts_known, &due, &parts[i], digests[i], &error);
  if (done == MR3D_OK) done = mr3d_claims_merge(suite, n, parts, argv, (const char(*)[65])digests, &claims, &error);
  if (done == MR3D_OK && waivers_path) {
    done = mr3d_open_waivers(waivers_path, waiver_keys, &key.public, &waivers, &error);
    char *text = done == MR3D_OK ? mr3d_envelope_print(waivers) : NULL;
    if (text) claims.waivers = cJSON_Parse(text);
    free(text);
  }
  if (done == MR3D_OK) done = mr3d_statement_make(suite, &claims, &payload, &c, &error);
  if (done == MR3D_OK) done = mr3d_issue_statement(payload, &c, &key, out, failure, &error);
  status = done != MR3D_OK ? mr3d_complain("%s", error.message) : c.kind == MR3D_FAILURE ? 2 : 0;
  cJSON_free(payload);
  mr3d_claims_clear(&claims);
  for (int i = 0; i < n; i++) mr3d_claims_clear(&parts[i]);
  free(parts);
  free(digests);
  mr3d_envelope_free(&waivers);
  mr3d_secret_key_clear(&key);
  mr3d_suite_close(&suite);
  return status;
}
