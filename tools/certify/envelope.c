#include "envelope.h"

#include <cjson/cJSON.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "json.h"
#include "text.h"

mr3d_envelope *mr3d_envelope_new(const char *type, const char *payload, size_t size) {
  mr3d_envelope *envelope = mr3d_allocate(1, sizeof *envelope);
  envelope->type = strdup(type);
  envelope->payload = mr3d_allocate((long long)size + 1, 1);
  memcpy(envelope->payload, payload, size);
  envelope->size = size;
  return envelope;
}

void mr3d_envelope_free(mr3d_envelope **envelope) {
  if (!*envelope) return;
  free((*envelope)->type);
  free((*envelope)->payload);
  free(*envelope);
  *envelope = NULL;
}

char *mr3d_envelope_signed_bytes(const mr3d_envelope *envelope, size_t *size) {
  char *bytes = NULL;
  FILE *to = open_memstream(&bytes, size);
  fprintf(to, "DSSEv1 %zu %s %zu ", strlen(envelope->type), envelope->type, envelope->size);
  fwrite(envelope->payload, 1, envelope->size, to);
  fclose(to);
  return bytes;
}

mr3d_status mr3d_envelope_sign(mr3d_envelope *envelope, const mr3d_secret_key *key, mr3d_error *error) {
  int at = 0;
  while (at < envelope->n_signatures && strcmp(envelope->signatures[at].key_id, key->public.id) < 0) at++;
  if (at < envelope->n_signatures && strcmp(envelope->signatures[at].key_id, key->public.id) == 0)
    return mr3d_fail(error, MR3D_INVALID, "it bears a signature of key %.16s... already", key->public.id);
  if (envelope->n_signatures == MR3D_MAX_SIGNATURES) return mr3d_fail(error, MR3D_INVALID, "it bears %d signatures already; no more are read", MR3D_MAX_SIGNATURES);
  memmove(&envelope->signatures[at + 1], &envelope->signatures[at], (size_t)(envelope->n_signatures - at) * sizeof *envelope->signatures);
  size_t size;
  char *bytes = mr3d_envelope_signed_bytes(envelope, &size);
  memcpy(envelope->signatures[at].key_id, key->public.id, sizeof key->public.id);
  crypto_sign_detached(envelope->signatures[at].bytes, NULL, (const unsigned char *)bytes, size, key->bytes);
  envelope->n_signatures++;
  free(bytes);
  return MR3D_OK;
}

mr3d_status mr3d_envelope_check(const mr3d_envelope *envelope, const mr3d_public_key *key, mr3d_error *error) {
  for (int i = 0; i < envelope->n_signatures; i++) {
    if (strcmp(envelope->signatures[i].key_id, key->id) != 0) continue;
    size_t size;
    char *bytes = mr3d_envelope_signed_bytes(envelope, &size);
    bool good = crypto_sign_verify_detached(envelope->signatures[i].bytes, (const unsigned char *)bytes, size, key->bytes) == 0;
    free(bytes);
    return good ? MR3D_OK
                : mr3d_fail(error, MR3D_INVALID, "signature: that of key %.16s... does not fit the content: the file was changed after it was signed, or signed by another key",
                            key->id);
  }
  return mr3d_fail(error, MR3D_UNSUPPORTED, "signature: none is by key %.16s...", key->id);
}

/* ---- JSON ---- */

static mr3d_status parse_signature(const cJSON *item, mr3d_signature *signature, mr3d_error *error) {
  static const char *const keys[] = {"keyid", "sig", NULL};
  char *sig = NULL;
  size_t size = 0;
  mr3d_status status = mr3d_text_keys(item, "a signature", keys, error);
  if (status != MR3D_OK) return status;
  const cJSON *id = cJSON_GetObjectItemCaseSensitive(item, "keyid");
  if (!cJSON_IsString(id) || !mr3d_text_is_digest(id->valuestring))
    return mr3d_fail(error, MR3D_FORMAT, "envelope: keyid must be %d lower-case hexadecimal digits, the SHA-256 of a public key", MR3D_KEY_ID);
  memcpy(signature->key_id, id->valuestring, sizeof signature->key_id);
  status = mr3d_text_from_base64(cJSON_GetObjectItemCaseSensitive(item, "sig"), "envelope: sig", &sig, &size, error);
  if (status == MR3D_OK && size != sizeof signature->bytes)
    status = mr3d_fail(error, MR3D_FORMAT, "envelope: a signature has %zu bytes; Ed25519's have %zu", size, sizeof signature->bytes);
  if (status == MR3D_OK) memcpy(signature->bytes, sig, size);
  free(sig);
  return status;
}

static mr3d_status parse_envelope(const cJSON *root, mr3d_envelope *envelope, mr3d_error *error) {
  static const char *const keys[] = {"payload", "payloadType", "signatures", NULL};
  if (!mr3d_text_is_plain(root)) return mr3d_fail(error, MR3D_FORMAT, "envelope: a text holds control characters");
  mr3d_status status = mr3d_text_keys(root, "envelope", keys, error);
  if (status != MR3D_OK) return status;
  const cJSON *type = cJSON_GetObjectItemCaseSensitive(root, "payloadType"), *list = cJSON_GetObjectItemCaseSensitive(root, "signatures"), *item;
  if (!cJSON_IsString(type) || !*type->valuestring) return mr3d_fail(error, MR3D_FORMAT, "envelope: payloadType must be a text");
  envelope->type = strdup(type->valuestring);
  status = mr3d_text_from_base64(cJSON_GetObjectItemCaseSensitive(root, "payload"), "envelope: payload", &envelope->payload, &envelope->size, error);
  if (status != MR3D_OK) return status;
  if (!cJSON_IsArray(list)) return mr3d_fail(error, MR3D_FORMAT, "envelope: signatures must be a list");
  if (!list->child) return mr3d_fail(error, MR3D_FORMAT, "signature: there is none; an envelope without signatures proves nothing");
  cJSON_ArrayForEach (item, list) {
    if (envelope->n_signatures == MR3D_MAX_SIGNATURES) return mr3d_fail(error, MR3D_FORMAT, "envelope: more than %d signatures", MR3D_MAX_SIGNATURES);
    mr3d_signature *signature = &envelope->signatures[envelope->n_signatures++];
    status = parse_signature(item, signature, error);
    if (status != MR3D_OK) return status;
    if (envelope->n_signatures == 1) continue;
    int order = strcmp(signature[-1].key_id, signature->key_id);
    if (order == 0) return mr3d_fail(error, MR3D_FORMAT, "envelope: key %.16s... has signed twice", signature->key_id);
    if (order > 0) return mr3d_fail(error, MR3D_FORMAT, "envelope: the signatures are not in ascending order of their key ids");
  }
  return MR3D_OK;
}

mr3d_status mr3d_envelope_parse(const char *text, size_t size, mr3d_envelope **out, mr3d_error *error) {
  cJSON *root = NULL;
  mr3d_status status = mr3d_json_parse(text, size, MR3D_JSON_ANY_NUMBER, &root, error);
  if (status != MR3D_OK) return mr3d_fail_in(error, "envelope");
  mr3d_envelope *envelope = mr3d_allocate(1, sizeof *envelope);
  status = parse_envelope(root, envelope, error);
  cJSON_Delete(root);
  if (status == MR3D_OK) *out = envelope;
  else mr3d_envelope_free(&envelope);
  return status;
}

char *mr3d_envelope_print(const mr3d_envelope *envelope) {
  char *text = NULL;
  size_t size = 0;
  FILE *to = open_memstream(&text, &size);
  char *payload = mr3d_text_to_base64(envelope->payload, envelope->size);
  fprintf(to, "{\"payload\":\"%s\",\"payloadType\":\"%s\",\"signatures\":[", payload, envelope->type);
  free(payload);
  for (int i = 0; i < envelope->n_signatures; i++) {
    char *sig = mr3d_text_to_base64(envelope->signatures[i].bytes, sizeof envelope->signatures[i].bytes);
    fprintf(to, "%s{\"keyid\":\"%s\",\"sig\":\"%s\"}", i ? "," : "", envelope->signatures[i].key_id, sig);
    free(sig);
  }
  fputs("]}\n", to);
  fclose(to);
  return text;
}

mr3d_status mr3d_envelope_load(const char *path, mr3d_envelope **envelope, mr3d_error *error) {
  void *bytes;
  size_t size;
  mr3d_status status = mr3d_map(path, &bytes, &size, error);
  if (status != MR3D_OK) return status;
  status = mr3d_envelope_parse(bytes, size, envelope, error);
  mr3d_unmap(bytes, size);
  return status == MR3D_OK ? MR3D_OK : mr3d_fail_in(error, "%s", path);
}

mr3d_status mr3d_envelope_save(const mr3d_envelope *envelope, const char *path, mr3d_error *error) {
  char *text = mr3d_envelope_print(envelope);
  mr3d_status status = mr3d_write_file(path, text, strlen(text), error);
  free(text);
  return status;
}
