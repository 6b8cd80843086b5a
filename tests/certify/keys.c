/** Keys in files: who may read them, passphrases, that none is ever overwritten, and one key succeeding another. */
#include <sys/stat.h>

#include "certified.h"

static void private_keys_are_readable_by_their_owner_alone(void **state) {
  (void)state;
  char path[600];
  struct stat file;
  umask(0);
  assert_int_equal(mr3d("keygen %s/open.key", folder), 0);
  snprintf(path, sizeof path, "%s/open.key", folder);
  assert_int_equal(stat(path, &file), 0);
  assert_int_equal(file.st_mode & 07777, 0600);
  assert_int_equal(chmod(path, 0640), 0);
  certify_well("builtin:emulated", "keys.json", "");
  assert_int_equal(mr3d("sign %s/keys.json --key %s/open.key", folder, folder), 1);
  assert_said("has mode 0640: others may read this private key; chmod 600");
  assert_int_equal(mr3d("sign %s/keys.json --key %s/vendor.key.pub", folder, folder), 1);
  assert_said("vendor.key.pub: this is a public key, which signs nothing; the private one lies beside it, without .pub");
}

static void a_key_is_never_overwritten(void **state) {
  (void)state;
  size_t size, again;
  char *before = read_bytes(folder, "vendor.key", &size);
  assert_int_equal(mr3d("keygen %s/vendor.key", folder), 1);
  assert_said("a key is never overwritten");
  char *after = read_bytes(folder, "vendor.key", &again);
  assert_int_equal(size, again);
  assert_memory_equal(before, after, size);
  free(before), free(after);
  write_text(folder, "half.key.pub", "here before");
  assert_int_equal(mr3d("keygen %s/half.key", folder), 1);
  assert_int_equal(run_command("test ! -e \"$MR3D_GOLDEN/half.key\""), 0); /* no half of a pair is left */
}

static void nothing_is_verified_without_a_key(void **state) {
  (void)state;
  static const char *const none[] = {"", ",", ",,"};
  for (int i = 0; i < 3; i++) {
    assert_int_equal(mr3d("verify %s/keys.json --key '%s'", folder, none[i]), 1);
    assert_said("names no key");
  }
}

static void what_is_signed_replaces_no_other_file(void **state) {
  (void)state;
  size_t size, again;
  char *before = read_bytes(folder, "stranger.key", &size);
  assert_int_equal(mr3d("sign %s/keys.json --key %s/lab.key -o %s/stranger.key", folder, folder, folder), 1);
  assert_said("exists already");
  char *after = read_bytes(folder, "stranger.key", &again);
  assert_int_equal(size, again);
  assert_memory_equal(before, after, size);
  free(before), free(after);
  assert_int_equal(certify("builtin:emulated", "no-such-folder/a.json", ""), 1);
  assert_said("cannot create it");
  assert_null(strstr(output, "COMPLIANT")); /* before anything was judged */
}

static void a_sealed_key_opens_with_its_passphrase_alone(void **state) {
  (void)state;
  mr3d_secret_key key;
  mr3d_error error = {0};
  char path[600];
  write_text(folder, "right", "correct horse\n");
  write_text(folder, "wrong", "battery staple\n");
  write_text(folder, "none", "\n");
  assert_int_equal(mr3d("keygen %s/sealed.key --passphrase-file %s/none", folder, folder), 1);
  assert_int_equal(mr3d("keygen %s/sealed.key --passphrase-file %s/right", folder, folder), 0);
  snprintf(path, sizeof path, "%s/sealed.key", folder);
  char *text = read_bytes(folder, "sealed.key", NULL);
  assert_null(strstr(text, "private"));
  free(text);
  assert_int_equal(mr3d_secret_key_load(path, NULL, &key, &error), MR3D_INVALID);
  assert_int_equal(mr3d_secret_key_load(path, "battery staple", &key, &error), MR3D_INVALID);
  assert_non_null(strstr(error.message, "the passphrase does not open this key"));
  assert_int_equal(mr3d_secret_key_load(path, "correct horse", &key, &error), MR3D_OK);
  assert_int_equal(mr3d("sign %s/keys.json --key %s/sealed.key --passphrase-file %s/wrong", folder, folder, folder), 1);
  assert_int_equal(mr3d("sign %s/keys.json --key %s/sealed.key --passphrase-file %s/right", folder, folder, folder), 0);
  assert_int_equal(mr3d("verify %s/keys.json --key %s/vendor.key.pub,%s/sealed.key.pub", folder, folder, folder), 0);
}

/** Each key file, changed in every byte in turn, is refused or is the same key still. */
static void damaged_keys_are_refused(void **state) {
  (void)state;
  char path[600], *text = read_bytes(folder, "vendor.key.pub", NULL);
  mr3d_public_key good, read;
  mr3d_error error = {0};
  assert_int_equal(mr3d_public_key_parse(text, strlen(text), &good, &error), MR3D_OK);
  for (size_t i = 0; text[i]; i++) {
    text[i] ^= 1;
    if (mr3d_public_key_parse(text, strlen(text), &read, &error) == MR3D_OK) assert_memory_equal(&read, &good, sizeof good);
    text[i] ^= 1;
  }
  for (size_t n = 0; n + 1 < strlen(text); n++) assert_int_not_equal(mr3d_public_key_parse(text, n, &read, &error), MR3D_OK);
  free(text);
  snprintf(path, sizeof path, "%s/lab.key", folder);
  assert_int_not_equal(mr3d_public_key_load(path, &read, &error), MR3D_OK);
  assert_non_null(strstr(error.message, "this is a private key"));
  /* another public key beside a private one */
  mr3d_secret_key lab, mixed;
  char public[65], private[65], text_of_both[600];
  load_key("lab", &lab);
  snprintf(path, sizeof path, "%s/stranger.key.pub", folder);
  assert_int_equal(mr3d_public_key_load(path, &read, &error), MR3D_OK);
  snprintf(text_of_both, sizeof text_of_both, "{\"keyid\":\"%s\",\"keytype\":\"ed25519\",\"scheme\":\"ed25519\",\"keyval\":{\"public\":\"%s\",\"private\":\"%s\"}}", read.id,
           sodium_bin2hex(public, sizeof public, read.bytes, 32), sodium_bin2hex(private, sizeof private, lab.bytes, 32));
  write_text(folder, "mixed.key", text_of_both);
  snprintf(path, sizeof path, "%s/mixed.key", folder);
  chmod(path, 0600);
  assert_int_equal(mr3d_secret_key_load(path, NULL, &mixed, &error), MR3D_FORMAT);
  assert_non_null(strstr(error.message, "do not belong together"));
}

/** A successor's signature counts for the key it succeeds, over several steps, where the rotations are given, and only then. */
static void a_key_may_succeed_another(void **state) {
  (void)state;
  assert_int_equal(mr3d("keygen %s/second.key --replaces %s/vendor.key", folder, folder), 0);
  assert_int_equal(mr3d("keygen %s/third.key --replaces %s/second.key", folder, folder), 0);
  assert_int_equal(mr3d("certify --backend builtin:emulated --tier fp32 --nonce " NONCE " --key %s/third.key -o %s/rotated.json --quiet", folder, folder), 0);
  assert_int_equal(verify("rotated.json", ""), 2);
  assert_said("signature: none is by key");
  char words[1300];
  snprintf(words, sizeof words, "--rotations %s/third.key.rotation", folder);
  assert_int_equal(verify("rotated.json", words), 2);
  snprintf(words, sizeof words, "--rotations %s/third.key.rotation,%s/second.key.rotation", folder, folder);
  assert_int_equal(verify("rotated.json", words), 0);
  /* a stranger cannot name himself successor */
  assert_int_equal(mr3d("keygen %s/usurper.key --replaces %s/stranger.key", folder, folder), 0);
  assert_int_equal(mr3d("certify --backend builtin:emulated --tier fp32 --nonce " NONCE " --key %s/usurper.key -o %s/usurped.json --quiet", folder, folder), 0);
  snprintf(words, sizeof words, "--rotations %s/usurper.key.rotation", folder);
  assert_int_equal(verify("usurped.json", words), 2);
  mr3d_envelope *envelope = load_envelope("second.key.rotation");
  mr3d_public_key from, to;
  mr3d_error error = {0};
  assert_int_equal(mr3d_rotation_read(envelope, &from, &to, &error), MR3D_OK);
  for (int s = 0; s < 2; s++) { /* both signatures count */
    envelope->signatures[s].bytes[5] ^= 1;
    assert_int_not_equal(mr3d_rotation_read(envelope, &from, &to, &error), MR3D_OK);
    envelope->signatures[s].bytes[5] ^= 1;
  }
  mr3d_envelope_free(&envelope);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(private_keys_are_readable_by_their_owner_alone), cmocka_unit_test(a_key_is_never_overwritten), cmocka_unit_test(nothing_is_verified_without_a_key),
                                     cmocka_unit_test(what_is_signed_replaces_no_other_file),
                                     cmocka_unit_test(a_sealed_key_opens_with_its_passphrase_alone), cmocka_unit_test(damaged_keys_are_refused), cmocka_unit_test(a_key_may_succeed_another)};
  return cmocka_run_group_tests(tests, make_certified, drop);
}
