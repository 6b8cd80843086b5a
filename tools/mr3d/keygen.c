/** mr3d keygen: a key to sign with. */
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "signing.h"
#include "text.h"

static mr3d_status write_rotation(const char *replaces, const char *passphrase_file, const mr3d_secret_key *fresh, const char *path, mr3d_error *error) {
  mr3d_secret_key old = {0};
  mr3d_envelope *envelope = NULL;
  char now[32];
  mr3d_text_now(now);
  now[10] = '\0';
  mr3d_status status = mr3d_open_key(replaces, passphrase_file, &old, error);
  if (status == MR3D_OK) status = mr3d_rotation_make(&old, fresh, now, &envelope, error);
  if (status == MR3D_OK) status = mr3d_envelope_save(envelope, path, error);
  mr3d_envelope_free(&envelope);
  mr3d_secret_key_clear(&old);
  return status;
}

int mr3d_command_keygen(int argc, char **argv) {
  bool seal = false;
  const char *passphrase_file = NULL, *replaces = NULL, *replaced_passphrase = NULL;
  const mr3d_option table[] = {
      {"--passphrase", NULL, MR3D_OPTION_FLAG, &seal, "seal the private key by a passphrase that you type (Argon2id)"},
      {"--passphrase-file", "FILE", MR3D_OPTION_TEXT, &passphrase_file, "seal it by the first line of a file"},
      {"--replaces", "KEY", MR3D_OPTION_TEXT, &replaces, "the private key that the new one succeeds: writes NAME.rotation too, signed by both"},
      {"--replaces-passphrase-file", "FILE", MR3D_OPTION_TEXT, &replaced_passphrase, "that opens it"},
      {NULL, NULL, MR3D_OPTION_FLAG, NULL, NULL},
  };
  const mr3d_usage usage = {"mr3d keygen NAME [OPTION ...]",
                            "Draws an Ed25519 key: NAME is the private part (mode 0600; keep it), NAME.pub the public one (give it to those who check). Neither is ever overwritten.\n"
                            "Exit status: 0 written, 1 not.\n",
                            1, 1, "a name is missing: mr3d keygen vendor.key"};
  int n = 0, status = mr3d_options_parse(&usage, table, argc, argv, &n);
  if (status >= 0) return status;
  mr3d_error error = {0};
  mr3d_secret_key key;
  char passphrase[1024] = "", rotation[4200];
  snprintf(rotation, sizeof rotation, "%.4000s.rotation", argv[0]);
  if (replaces && access(rotation, F_OK) == 0) return mr3d_complain("%s: it exists already", rotation);
  seal = seal || passphrase_file;
  mr3d_status done = seal ? mr3d_get_passphrase(passphrase_file, true, passphrase, sizeof passphrase, &error) : MR3D_OK;
  if (done == MR3D_OK) done = mr3d_secret_key_draw(&key, &error);
  if (done != MR3D_OK) return mr3d_complain("%s", error.message);
  if (replaces) done = write_rotation(replaces, replaced_passphrase, &key, rotation, &error);
  if (done == MR3D_OK && (done = mr3d_secret_key_save(&key, seal ? passphrase : NULL, argv[0], &error)) != MR3D_OK && replaces) unlink(rotation);
  sodium_memzero(passphrase, sizeof passphrase);
  if (done == MR3D_OK) printf("key %s: %s (private, keep it) and %s.pub%s%s\n", key.public.id, argv[0], argv[0], replaces ? "; its predecessor's word is in " : "", replaces ? rotation : "");
  mr3d_secret_key_clear(&key);
  return done == MR3D_OK ? 0 : mr3d_complain("%s", error.message);
}
