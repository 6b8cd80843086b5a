/** mr3d sign: a list of waivers becomes a signed one; a signed file gets a further signature. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "file.h"
#include "json.h"
#include "signing.h"
#include "text.h"
#include "waivers.h"

/** The envelope in a file, or one around the list of waivers that it holds. */
static mr3d_status open_envelope(const char *path, mr3d_envelope **envelope, mr3d_error *error) {
  void *bytes;
  size_t size;
  cJSON *json = NULL;
  mr3d_status status = mr3d_map(path, &bytes, &size, error);
  if (status != MR3D_OK) return status;
  status = mr3d_json_parse(bytes, size, MR3D_JSON_ANY_NUMBER, &json, error);
  if (status == MR3D_OK && cJSON_GetObjectItemCaseSensitive(json, "waivers")) {
    mr3d_waivers *waivers = NULL;
    char day[32];
    char *text = cJSON_PrintUnformatted(json);
    mr3d_text_now(day);
    day[10] = '\0';
    *envelope = mr3d_envelope_new(MR3D_WAIVERS_TYPE, text, strlen(text));
    cJSON_free(text);
    status = mr3d_waivers_read(*envelope, day, &waivers, error);
    mr3d_waivers_free(&waivers);
    if (status != MR3D_OK) mr3d_envelope_free(envelope);
  } else if (status == MR3D_OK) status = mr3d_envelope_parse(bytes, size, envelope, error);
  cJSON_Delete(json);
  mr3d_unmap(bytes, size);
  return status == MR3D_OK ? MR3D_OK : mr3d_fail_in(error, "%s", path);
}

int mr3d_command_sign(int argc, char **argv) {
  const char *key_path = NULL, *passphrase_file = NULL, *out = NULL;
  const mr3d_option table[] = {
      MR3D_KEY_OPTIONS(&key_path, &passphrase_file),
      {"-o", "FILE", MR3D_OPTION_TEXT, &out, "where the signed file goes (default: the file itself)"},
      {NULL, NULL, MR3D_OPTION_FLAG, NULL, NULL},
  };
  const mr3d_usage usage = {"mr3d sign FILE --key KEY [OPTION ...]",
                            "FILE is a list of waivers (docs/certificate.md), which is checked and signed; or a certificate or list that is signed already and gets a further signature:\n"
                            "a laboratory's beside the vendor's. Check it first (mr3d verify): you vouch for it. Exit status: 0 signed, 1 not.\n",
                            1, 1, "a file is missing: mr3d sign certificate.json --key lab.key"};
  int n = 0, status = mr3d_options_parse(&usage, table, argc, argv, &n);
  if (status >= 0) return status;
  if (!key_path) return mr3d_complain("--key is missing: the private key to sign with\nUsage: %s", usage.line);
  mr3d_error error = {0};
  mr3d_envelope *envelope = NULL;
  mr3d_secret_key key = {0};
  if (out && strcmp(out, argv[0]) != 0 && mr3d_new_file(out, &error) != MR3D_OK) return mr3d_complain("%s", error.message);
  mr3d_status done = open_envelope(argv[0], &envelope, &error);
  if (done == MR3D_OK) done = mr3d_open_key(key_path, passphrase_file, &key, &error);
  if (done == MR3D_OK && mr3d_envelope_sign(envelope, &key, &error) != MR3D_OK) done = mr3d_fail_in(&error, "%s", argv[0]);
  if (done == MR3D_OK) done = mr3d_envelope_save(envelope, out ? out : argv[0], &error);
  if (done == MR3D_OK) printf("%s: signed by key %s, %d signature%s\n", out ? out : argv[0], key.public.id, envelope->n_signatures, envelope->n_signatures == 1 ? "" : "s");
  mr3d_secret_key_clear(&key);
  mr3d_envelope_free(&envelope);
  return done == MR3D_OK ? 0 : mr3d_complain("%s", error.message);
}
