/** mr3d verify: checks a certificate, offline; and, where the backend is at hand, some of its results. */
#include <sodium.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "command.h"
#include "subject.h"
#include "text.h"
#include "verifying.h"

void mr3d_refuse(mr3d_verifying *check, const char *format, ...) {
  va_list arguments;
  char *text = NULL, *line;
  if (check->n_wrong++ == 0) printf("REFUSED %s\n", check->path);
  va_start(arguments, format);
  if (vasprintf(&text, format, arguments) < 0) abort();
  va_end(arguments);
  printf("  %s\n", line = mr3d_text_line(text));
  free(line);
  free(text);
}

/** What is installed here must be whole, else nothing could be said about a file. */
static mr3d_status check_suite(const mr3d_suite *suite, mr3d_error *error) {
  mr3d_rules *rules = NULL;
  mr3d_status status = mr3d_rules_open(suite, &rules, error);
  mr3d_rules_close(&rules);
  for (int p = 0; mr3d_profile_at(p) && status == MR3D_OK; p++) status = mr3d_profile_version(mr3d_profile_at(p), suite, &(int){0}, (char[MR3D_HEX_DIGEST]){0}, error);
  return status;
}

/* ---- signatures ---- */

static mr3d_status load_rotations(mr3d_verifying *check, const char *list, mr3d_error *error) {
  for (const char *at = list; at && *at; at += strspn(at, ",")) {
    char path[4096];
    mr3d_envelope *envelope = NULL;
    snprintf(path, sizeof path, "%.*s", (int)strcspn(at, ","), at);
    if (check->n_rotations == MR3D_MAX_KEYS) return mr3d_fail(error, MR3D_INVALID, "more than %d rotations", MR3D_MAX_KEYS);
    mr3d_status status = mr3d_envelope_load(path, &envelope, error);
    if (status == MR3D_OK && mr3d_rotation_read(envelope, &check->rotations[check->n_rotations].from, &check->rotations[check->n_rotations].to, error) != MR3D_OK)
      status = mr3d_fail_in(error, "%s", path);
    mr3d_envelope_free(&envelope);
    if (status != MR3D_OK) return status;
    check->n_rotations++;
    at += strcspn(at, ",");
  }
  return MR3D_OK;
}

/** A key, and all that succeed it, one after the other; `before` adds those that it succeeds. Returns how many. */
static int kin_of(const mr3d_verifying *check, const mr3d_public_key *key, bool before, mr3d_public_key kin[2 * MR3D_MAX_KEYS + 1]) {
  int n = 0;
  kin[n++] = *key;
  for (int k = 0; k < n; k++)
    for (int r = 0; r < check->n_rotations; r++)
      for (int way = 0; way <= before; way++) {
        const mr3d_public_key *from = way ? &check->rotations[r].to : &check->rotations[r].from, *to = way ? &check->rotations[r].from : &check->rotations[r].to;
        bool known = strcmp(from->id, kin[k].id) != 0 || n > 2 * MR3D_MAX_KEYS;
        for (int i = 0; i < n && !known; i++) known = strcmp(kin[i].id, to->id) == 0;
        if (!known) kin[n++] = *to;
      }
  return n;
}

/** Each key given, or one that succeeds it, must have signed. */
static void check_signatures(mr3d_verifying *check) {
  bool checked[MR3D_MAX_SIGNATURES] = {false};
  for (int k = 0; k < check->n_keys; k++) {
    mr3d_public_key chain[2 * MR3D_MAX_KEYS + 1];
    mr3d_error error = {0}, first = {0};
    const int n = kin_of(check, &check->keys[k], false, chain);
    mr3d_status status = MR3D_UNSUPPORTED;
    for (int i = 0; i < n && status == MR3D_UNSUPPORTED; i++) {
      status = mr3d_envelope_check(check->envelope, &chain[i], &error);
      if (i == 0) first = error;
      for (int s = 0; s < check->envelope->n_signatures; s++) checked[s] = checked[s] || strcmp(check->envelope->signatures[s].key_id, chain[i].id) == 0;
    }
    if (status == MR3D_UNSUPPORTED) mr3d_refuse(check, "%s", first.message);
    else if (status != MR3D_OK) mr3d_refuse(check, "%s", error.message);
  }
  for (int s = 0; s < check->envelope->n_signatures; s++)
    if (!checked[s]) printf("note: the signature of key %.16s... was not checked; give its public key with --key\n", check->envelope->signatures[s].key_id);
}

/* ---- the statement ---- */

static void check_time(mr3d_verifying *check) {
  struct tm issued = {0};
  strptime(check->claims.issued, "%Y-%m-%dT%H:%M:%SZ", &issued);
  if (timegm(&issued) > time(NULL) + 86400) mr3d_refuse(check, "issued: %s lies in the future", check->claims.issued);
}

/** One of the keys must have signed the waivers: of --waiver-key, else of --key, and what rotations tie to these. A waiver that a key signed before it was replaced holds. */
static mr3d_status check_waiver_signature(const mr3d_verifying *check, const mr3d_envelope *envelope, int n, const mr3d_public_key keys[], mr3d_error *error) {
  mr3d_status status = MR3D_INVALID;
  for (int k = 0; k < n && status != MR3D_OK; k++) {
    mr3d_public_key kin[2 * MR3D_MAX_KEYS + 1];
    mr3d_error own = {0};
    status = mr3d_signed_by_one(envelope, kin_of(check, &keys[k], true, kin), kin, &own);
    if (status != MR3D_OK && k == 0) mr3d_fail(error, MR3D_INVALID, "%s", own.message);
  }
  return status;
}

static void check_waivers(mr3d_verifying *check, const char *waiver_keys) {
  mr3d_error error = {0};
  mr3d_envelope *envelope = NULL;
  mr3d_waivers *waivers = NULL;
  mr3d_public_key known[MR3D_MAX_KEYS];
  char now[32], what[1024];
  int n = 0;
  if (!check->claims.waivers) return;
  mr3d_text_now(now);
  now[10] = '\0';
  char *text = cJSON_PrintUnformatted(check->claims.waivers);
  mr3d_status status = mr3d_load_keys(waiver_keys, &n, known, &error);
  if (status == MR3D_OK) status = mr3d_envelope_parse(text, strlen(text), &envelope, &error);
  cJSON_free(text);
  if (status == MR3D_OK) status = n > 0 ? check_waiver_signature(check, envelope, n, known, &error) : check_waiver_signature(check, envelope, check->n_keys, check->keys, &error);
  if (status == MR3D_OK) status = mr3d_waivers_read(envelope, now, &waivers, &error);
  if (status != MR3D_OK) mr3d_refuse(check, "waivers: %s", error.message);
  for (int i = 0; waivers && i < mr3d_waivers_count(waivers); i++) {
    mr3d_waivers_say(waivers, i, what, sizeof what);
    printf("waived: %s\n", what);
  }
  mr3d_waivers_free(&waivers);
  mr3d_envelope_free(&envelope);
}

/**
 * Answers below fp64 that equal the binary64 reference. A few do, and those of simple operators computed in binary64; hardly any of a whole profile, unless the backend is
 * the reference or somebody wrote down what passes every rule. Where the backend is at hand, --replay shows which.
 */
static void check_equal(mr3d_verifying *check) {
  const mr3d_conclusion *c = &check->c;
  const char *text = "results: %d of %d tests below fp64 with floating outputs are recorded without any error against the binary64 reference";
  char what[200];
  snprintf(what, sizeof what, text, c->equal, c->floating);
  if (10 * c->equal > 9 * c->floating && !check->claims.scope.ops) mr3d_refuse(check, "%s: only the reference itself gives that; --replay shows whether the backend does", what);
  else if (2 * c->equal > c->floating) printf("note: %s; --replay shows whether the backend gives that\n", what);
}

/** Of a part of one's own run, tiers and operators must be those of the run, neither less nor more. */
static mr3d_status check_part(mr3d_verifying *check, const char *part, uint32_t tiers, const char *ops, mr3d_error *error) {
  const mr3d_scope *scope = &check->claims.scope;
  mr3d_shard due;
  mr3d_status status = mr3d_shard_parse(part, &due, error);
  if (status != MR3D_OK) return status;
  if (scope->shard.index != due.index || scope->shard.of != due.of) mr3d_refuse(check, "shard: it is not part %s", part);
  if (tiers && tiers != scope->tiers) mr3d_refuse(check, "profile: it is about other tiers");
  if (ops && (!scope->ops || strcmp(ops, scope->ops) != 0)) mr3d_refuse(check, "profile: it is about other operators than %s", ops);
  return MR3D_OK;
}

static const char *text_of(const cJSON *object, const char *key) { return cJSON_GetObjectItemCaseSensitive(object, key)->valuestring; }

/** A word of --require that is none: an error. */
static mr3d_status check_required(mr3d_verifying *check, const char *list, mr3d_error *error) {
  for (const char *at = list; at && *at; at += strspn(at, ",")) {
    const size_t n = strcspn(at, ",");
    const cJSON *machine;
    if (n == 9 && strncmp(at, "isolation", n) == 0) {
      cJSON_ArrayForEach (machine, check->claims.machines)
        if (!cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(machine, "isolation"), "asked")))
          mr3d_refuse(check, "machines: it was judged on %s without isolation (--no-isolation)", text_of(machine, "processor"));
    } else if (n == 5 && strncmp(at, "files", n) == 0) {
      if (strcmp(text_of(check->claims.backend, "hashed"), MR3D_HASHED_COMMAND) == 0)
        mr3d_refuse(check, "subject: only the words of the command were hashed, not what its program loads (--files)");
    } else return mr3d_fail(error, MR3D_INVALID, "--require %.*s: expected isolation or files", (int)n, at);
    at += n;
  }
  return MR3D_OK;
}

/** What the caller asks for beyond a certificate that holds. */
static void check_wishes(mr3d_verifying *check, const char *nonce, const char *profile, uint32_t tiers, const char *ops, bool no_waivers) {
  mr3d_challenge wanted;
  mr3d_error error = {0};
  const mr3d_scope *scope = &check->claims.scope;
  if (nonce && mr3d_challenge_parse(nonce, &wanted, &error) != MR3D_OK) mr3d_refuse(check, "--nonce: %s", error.message);
  else if (nonce && !mr3d_challenge_equal(&wanted, &scope->challenge))
    mr3d_refuse(check, "challenge: it answers another nonce than yours: this is an old certificate, or somebody else's");
  if (!nonce) printf("note: give --nonce, the number that you chose; else this may answer an old challenge, whose inputs were known\n");
  if (profile && strcmp(profile, scope->profile->name) != 0) mr3d_refuse(check, "profile: it is about %s, not %s", scope->profile->name, profile);
  if (scope->ops && (!ops || strcmp(ops, scope->ops) != 0))
    mr3d_refuse(check, "profile: it is narrowed to cases that only ask %s; give --op %s if that is what you want", scope->ops, scope->ops);
  if (no_waivers && check->c.waived) mr3d_refuse(check, "waivers: it needs %d", check->c.n_waivers);
  if (tiers & ~scope->tiers) mr3d_refuse(check, "profile: it is not about all of the tiers that you ask for");
}

/* ---- telling ---- */

static void tell(const mr3d_verifying *check) {
  const mr3d_claims *claims = &check->claims;
  const mr3d_conclusion *c = &check->c;
  char scope[400];
  mr3d_scope_say(&claims->scope, scope, sizeof scope);
  const cJSON *item;
  printf("%s of %s: %s\n", mr3d_kind_name(c->kind), scope, c->verdict);
  printf("  backend %s (%s %s)\n", text_of(claims->backend, "spec"), text_of(claims->backend, "name"),
         text_of(claims->backend, "version"));
  cJSON_ArrayForEach (item, claims->files)
    printf("  file %s sha256 %s\n", text_of(item, "name"), text_of(cJSON_GetObjectItemCaseSensitive(item, "digest"), "sha256"));
  if (strcmp(text_of(claims->backend, "hashed"), MR3D_HASHED_COMMAND) == 0) printf("note: only the words of its command were hashed: what that program loads may have been anything\n");
  printf("  issued %s; %d tests: %d passed, %d failed, %d skipped, %d waived; %d asked again in another order\n", claims->issued, c->n_tests, c->passed, c->failed, c->skipped, c->waived, c->again);
  cJSON_ArrayForEach (item, claims->machines)
    printf("  on %s, %s; compiler %s; driver %s; isolation %s\n", text_of(item, "processor"), text_of(item, "system"),
           text_of(item, "compiler"), text_of(item, "driver"),
           cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(item, "isolation"), "asked")) ? "on" : "OFF (--no-isolation)");
  int shown = 0;
  cJSON_ArrayForEach (item, claims->reasons)
    if (shown++ < 8) printf("  not passed: %s: %.300s\n", item->child->valuestring, item->child->next->valuestring);
  if (shown > 8) printf("  and %d more\n", shown - 8);
  if (strcmp(claims->commit, mr3d_suite_commit()) != 0) printf("note: it was judged by commit %.16s of the suite, this is %.16s\n", claims->commit, mr3d_suite_commit());
  if (c->kind != MR3D_CERTIFICATE) return;
  char *proves = mr3d_scope_proves(&claims->scope);
  printf("It proves: %s.\nWhat it does not prove stands in its profile.doesNotProve and docs/certificate.md.\n", proves);
  free(proves);
}

int mr3d_command_verify(int argc, char **argv) {
  mr3d_verifying check = {0};
  mr3d_replay_wish wish = {0};
  mr3d_run_options options = {0};
  const char *keys = NULL, *rotations = NULL, *waiver_keys = NULL, *nonce = NULL, *profile = NULL, *ops = NULL, *golden = NULL, *require = NULL, *part = NULL, *more_files = NULL;
  uint32_t tiers = 0;
  int64_t wanted = 0, threads = 0;
  bool no_waivers = false;
  const mr3d_option table[] = {
      {"--key", "LIST", MR3D_OPTION_TEXT, &keys, "public keys that must all have signed (needed)"},
      {"--nonce", "HEX", MR3D_OPTION_TEXT, &nonce, "the number that you chose: a certificate that answers another is refused"},
      {"--profile", "NAME", MR3D_OPTION_TEXT, &profile, "refuse a certificate of another profile"},
      {"--tier", "LIST", MR3D_OPTION_TIERS, &tiers, "refuse one that is not about these tiers"},
      {"--op", "LIST", MR3D_OPTION_TEXT, &ops, "take one that was narrowed to these operators, which is refused else"},
      {"--no-waivers", NULL, MR3D_OPTION_FLAG, &no_waivers, "refuse one that conforms with waivers only"},
      {"--part", "I/N", MR3D_OPTION_TEXT, &part, "the file is that part of a certificate: good where it is one (exit status 0)"},
      {"--require", "LIST", MR3D_OPTION_TEXT, &require, "refuse one that was judged without: isolation, files (all that the backend is made of named by --files)"},
      {"--rotations", "LIST", MR3D_OPTION_TEXT, &rotations, "files of mr3d keygen --replaces: a key's successor may have signed in its place"},
      {"--waiver-key", "LIST", MR3D_OPTION_TEXT, &waiver_keys, "public keys of those who may waive (default: those of --key)"},
      {"--replay", "K", MR3D_OPTION_COUNT, &wanted, "judge K tests again and compare with the recorded numbers; and K cases on inputs of your own, which must pass"},
      {"--picks", "HEX", MR3D_OPTION_TEXT, &wish.picks, "for --replay: a nonce of your own that draws both (default: drawn now, and printed)"},
      {"--backend", "SPEC", MR3D_OPTION_TEXT, &options.backend, "the backend, as in mr3d check: its files must be those certified; --replay asks it"},
      {"--files", "LIST", MR3D_OPTION_TEXT, &more_files, "for --backend: further files of it"},
      {"--other-machine", NULL, MR3D_OPTION_FLAG, &wish.other_machine, "for --replay: numbers may differ from the recorded ones, verdicts may not"},
      {"--threads", "N", MR3D_OPTION_COUNT, &threads, "for --replay (default: all processors)"},
      {"--timeout", "SECONDS", MR3D_OPTION_SECONDS, &options.timeout, "for --replay, for one request"},
      {"--no-isolation", NULL, MR3D_OPTION_FLAG, &options.no_isolation, "for --replay, as in mr3d check"},
      {"--golden", "DIR", MR3D_OPTION_TEXT, &golden, "the golden set"},
      {NULL, NULL, MR3D_OPTION_FLAG, NULL, NULL},
  };
  const mr3d_usage usage = {"mr3d verify CERTIFICATE --key LIST [OPTION ...]",
                            "Checks a certificate offline: signatures, form, Merkle roots, golden set and case list against those installed here, the verdict from the recorded numbers under this\n"
                            "suite's limits. Exit status: 0 a certificate that holds, 2 refused, or a report of failure or a part, 1 could not check.\n",
                            1, 1, "a certificate is missing: mr3d verify certificate.json --key vendor.key.pub"};
  int n = 0, status = mr3d_options_parse(&usage, table, argc, argv, &n);
  if (status >= 0) return status;
  if (!keys) return mr3d_complain("--key is missing: whose signature do you trust?\nUsage: %s", usage.line);
  if (wish.picks && wanted == 0) return mr3d_complain("--picks goes with --replay");
  if (wanted > 0 && !options.backend) return mr3d_complain("--replay and --backend go together: how many tests, and who is to answer them");
  mr3d_error error = {0};
  char golden_dir[4096];
  check.path = argv[0];
  mr3d_status done = sodium_init() < 0 ? mr3d_fail(&error, MR3D_IO, "libsodium cannot start") : mr3d_find_golden(golden, golden_dir, &error);
  if (done == MR3D_OK) done = mr3d_suite_open(golden_dir, NULL, &check.suite, &error);
  if (done == MR3D_OK) done = check_suite(check.suite, &error);
  if (done == MR3D_OK && profile) done = mr3d_profile_named(profile, &(const mr3d_profile *){NULL}, &error); /* a name that nobody has is no refusal */
  if (done == MR3D_OK) done = mr3d_load_keys(keys, &check.n_keys, check.keys, &error);
  if (done == MR3D_OK) done = load_rotations(&check, rotations, &error);
  mr3d_status opened = done == MR3D_OK ? mr3d_envelope_load(argv[0], &check.envelope, &error) : done;
  if (done == MR3D_OK && opened == MR3D_IO) done = opened;
  else if (done == MR3D_OK && opened != MR3D_OK) mr3d_refuse(&check, "%s", error.message);
  if (check.envelope && strcmp(check.envelope->type, MR3D_STATEMENT_TYPE) != 0) mr3d_refuse(&check, "envelope: payloadType is %.80s, expected %s", check.envelope->type, MR3D_STATEMENT_TYPE);
  if (check.envelope) check_signatures(&check);
  if (check.envelope && check.n_wrong == 0) {
    const mr3d_status holds = mr3d_statement_check(check.suite, check.envelope->payload, check.envelope->size, &check.claims, &check.c, &error);
    check.read = holds == MR3D_OK;
    if (holds == MR3D_IO) done = holds; /* of a file of the suite */
    else if (!check.read) mr3d_refuse(&check, "%s", error.message);
  }
  if (check.read) {
    check_time(&check);
    check_waivers(&check, waiver_keys);
    if (wanted == 0) check_equal(&check);
    done = check_required(&check, require, &error);
    check_wishes(&check, nonce, profile, tiers, ops, no_waivers);
    options.golden_dir = golden_dir;
    options.threads = (int)(threads > 1024 ? 1024 : threads);
    wish.n = (int)(wanted > 1 << 20 ? 1 << 20 : wanted);
    if (done == MR3D_OK && part) done = check_part(&check, part, tiers, ops, &error);
    if (done == MR3D_OK && options.backend) done = mr3d_verify_files(&check, options.backend, more_files, &error);
    if (done == MR3D_OK && wanted > 0 && check.n_wrong == 0) done = mr3d_replay(&check, &options, &wish, &error);
    if (done == MR3D_OK && check.n_wrong == 0) tell(&check);
  }
  const mr3d_kind good = part ? MR3D_PARTIAL : MR3D_CERTIFICATE;
  status = done != MR3D_OK ? mr3d_complain("%s", error.message) : check.n_wrong || check.c.kind != good ? 2 : 0;
  mr3d_claims_clear(&check.claims);
  mr3d_envelope_free(&check.envelope);
  mr3d_suite_close(&check.suite);
  return status;
}
