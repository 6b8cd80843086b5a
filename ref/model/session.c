#include "session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

mr3d_session *mr3d_session_find(mr3d_session *table, const char *name) {
  while (table && strcmp(table->name, name) != 0) table = table->next;
  return table;
}

mr3d_session *mr3d_session_open(mr3d_session **table, const char *name) {
  mr3d_session *session = mr3d_allocate(1, sizeof *session);
  session->name = strdup(name);
  session->next = *table;
  *table = session;
  return session;
}

void mr3d_session_drop(mr3d_session **table, mr3d_session *session) {
  while (*table != session) table = &(*table)->next;
  *table = session->next;
  mr3d_weights_release(&session->weights);
  mr3d_kv_cache_free(&session->cache);
  free(session->prefill_mask);
  free(session->config_json);
  free(session->name);
  free(session);
}

void mr3d_session_grow(mr3d_session *session, mr3d_kv_cache *grown) {
  mr3d_kv_cache_free(&session->cache);
  session->cache = *grown;
  *grown = (mr3d_kv_cache){0};
}

void mr3d_session_set_mask(mr3d_session *session, int64_t columns, const int64_t *mask) {
  free(session->prefill_mask);
  session->prefill_mask = mr3d_allocate(session->B * columns, sizeof *mask);
  session->prefill_len = columns;
  memcpy(session->prefill_mask, mask, (size_t)(session->B * columns) * sizeof *mask);
}

bool mr3d_session_padded(const mr3d_session *session, int64_t b) {
  const int64_t *mask = session->prefill_mask + b * session->prefill_len;
  bool token = false, padded = false;
  for (int64_t j = 0; j < session->prefill_len; j++) {
    padded |= token && !mask[j];
    token |= mask[j] != 0;
  }
  return padded || (!token && session->prefill_len > 0);
}

mr3d_status mr3d_session_agrees(const mr3d_session *session, mr3d_tier tier, const char *weights, const char *config_json, mr3d_error *error) {
  if (tier != session->tier)
    return mr3d_fail(error, MR3D_INVALID, "session %s has tier %s, the request says %s", session->name, mr3d_tier_name(session->tier), mr3d_tier_name(tier));
  if (weights && strcmp(weights, mr3d_weights_path(session->weights)) != 0)
    return mr3d_fail(error, MR3D_INVALID, "session %s has weights %s, the request says %s", session->name, mr3d_weights_path(session->weights), weights);
  if (mr3d_config_agrees(config_json, session->config_json, error) != MR3D_OK) return mr3d_fail_in(error, "session %s", session->name);
  mr3d_config config;
  mr3d_status status = mr3d_config_parse_part(config_json, &config, error);
  if (status == MR3D_OK && config.tie_word_embeddings >= 0 && config.tie_word_embeddings != session->config.tie_word_embeddings)
    return mr3d_fail(error, MR3D_INVALID, "session %s: tie_word_embeddings is %s, but the session's weights made it %s", session->name,
                     config.tie_word_embeddings ? "true" : "false", session->config.tie_word_embeddings ? "true" : "false");
  return status;
}

const char *mr3d_session_list(const mr3d_session *table, char text[400]) {
  snprintf(text, 400, "%s", table ? "open: " : "no session is open");
  for (const mr3d_session *s = table; s; s = s->next) {
    size_t used = strlen(text);
    if (used > 320) {
      snprintf(text + used, 400 - used, ", ...");
      break;
    }
    snprintf(text + used, 400 - used, "%s%.60s", s == table ? "" : ", ", s->name);
  }
  return text;
}
