#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "mr3d/format.h"
#include "report.h"
#include "words.h"

int mr3d_complain(const char *format, ...) {
  va_list arguments;
  char *text = NULL, *clean;
  va_start(arguments, format);
  if (vasprintf(&text, format, arguments) < 0) abort();
  va_end(arguments);
  fprintf(stderr, "mr3d: %s\n", clean = mr3d_clean_text(text)); /* it may quote a file */
  free(clean);
  free(text);
  return 1;
}

static void print_help(const mr3d_usage *usage, const mr3d_option *options) {
  printf("Usage: %s\n\n%s%s", usage->line, usage->text, *usage->text ? "\n" : "");
  printf("Options:\n");
  for (const mr3d_option *o = options; o->name; o++) {
    char left[64];
    snprintf(left, sizeof left, "%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
    printf("  %-20s  %s\n", left, o->help);
  }
  printf("  %-20s  %s\n", "--help", "this text");
}

static int unknown_option(const mr3d_usage *usage, const mr3d_option *options, const char *name) {
  const char *names[64];
  int n = 0;
  for (const mr3d_option *o = options; o->name && n < 63; o++) names[n++] = o->name;
  names[n++] = "--help";
  const char *meant = mr3d_word_meant(name, n, names);
  if (meant) return mr3d_complain("unknown option %s; did you mean %s?", name, meant);
  return mr3d_complain("unknown option %s\nUsage: %s", name, usage->line);
}

static int set_option(const mr3d_option *o, const char *value) {
  char *end;
  errno = 0;
  switch (o->kind) {
  case MR3D_OPTION_ORDER: {
    mr3d_order *order = o->target;
    order->given = true;
    return value ? set_option(&(mr3d_option){o->name, o->value, MR3D_OPTION_SEED, &order->seed, o->help}, value) : -1;
  }
  case MR3D_OPTION_GIVEN_SEED: {
    mr3d_order *order = o->target;
    order->given = true;
    return set_option(&(mr3d_option){o->name, o->value, MR3D_OPTION_SEED, &order->seed, o->help}, value);
  }
  case MR3D_OPTION_FLAG: *(bool *)o->target = true; return -1;
  case MR3D_OPTION_TEXT: *(const char **)o->target = value; return -1;
  case MR3D_OPTION_COUNT:
  case MR3D_OPTION_SEED: {
    unsigned long long number = strtoull(value, &end, 10);
    bool good = *value >= '0' && *value <= '9' && !*end && !errno && (o->kind == MR3D_OPTION_SEED || number <= INT64_MAX);
    if (!good) return mr3d_complain("%s %s: expected a whole number of at least 0", o->name, value);
    if (o->kind == MR3D_OPTION_SEED) *(uint64_t *)o->target = number;
    else *(int64_t *)o->target = (int64_t)number;
    return -1;
  }
  case MR3D_OPTION_SECONDS: {
    double seconds = strtod(value, &end);
    if (!*value || *end || !(seconds > 0) || !isfinite(seconds))
      return mr3d_complain("%s %s: expected a number of seconds above 0", o->name, value);
    *(double *)o->target = seconds;
    return -1;
  }
  case MR3D_OPTION_NUMBER: {
    double number = strtod(value, &end);
    if (!*value || *end || !isfinite(number)) return mr3d_complain("%s %s: expected a number", o->name, value);
    *(double *)o->target = number;
    return -1;
  }
  case MR3D_OPTION_TIERS: {
    uint32_t tiers = 0;
    char word[32];
    for (const char *at = value; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
      snprintf(word, sizeof word, "%.*s", (int)strcspn(at, ","), at);
      mr3d_tier tier = mr3d_tier_named(word);
      if (tier == MR3D_N_TIERS)
        return mr3d_complain("%s %s: unknown tier \"%s\"; expected fp64, fp32, tf32, bf16 or fp16, joined by commas", o->name, value, word);
      tiers |= 1u << tier;
    }
    *(uint32_t *)o->target = tiers;
    return -1;
  }
  }
  return 1;
}

int mr3d_options_parse(const mr3d_usage *usage, const mr3d_option *options, int argc, char **argv, int *n_arguments) {
  int n = 0;
  bool only_arguments = false, given[64] = {false};
  for (int i = 0; i < argc; i++) {
    char *word = argv[i];
    if (only_arguments || word[0] != '-' || word[1] == '\0') {
      argv[n++] = word;
      continue;
    }
    if (strcmp(word, "--") == 0) {
      only_arguments = true;
      continue;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
      print_help(usage, options);
      return 0;
    }
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word, "="), word);
    const mr3d_option *o = options;
    while (o->name && strcmp(o->name, name) != 0) o++;
    if (!o->name) return unknown_option(usage, options, name);
    const char *value = strchr(word, '=') ? strchr(word, '=') + 1 : NULL;
    if (o->kind != MR3D_OPTION_FLAG && o - options < 64 && given[o - options])
      return mr3d_complain("%s is given twice; only one would count. Lists are joined by commas, a glob may hold * and ?", name);
    if (o - options < 64) given[o - options] = true;
    if (o->kind == MR3D_OPTION_FLAG && value) return mr3d_complain("%s takes no value", name);
    if (o->kind == MR3D_OPTION_ORDER && !value && i + 1 < argc && argv[i + 1][0] >= '0' && argv[i + 1][0] <= '9') value = argv[++i];
    if (o->kind != MR3D_OPTION_FLAG && o->kind != MR3D_OPTION_ORDER && !value) {
      if (i + 1 == argc) return mr3d_complain("%s needs a value: %s %s", name, name, o->value);
      value = argv[++i];
    }
    int status = set_option(o, value);
    if (status >= 0) return status;
  }
  if (n < usage->least) return mr3d_complain("%s\nUsage: %s", usage->needs ? usage->needs : "something is missing", usage->line);
  if (usage->most >= 0 && n > usage->most)
    return mr3d_complain("\"%s\" is one argument too many\nUsage: %s", argv[usage->most], usage->line);
  *n_arguments = n;
  return -1;
}

static bool has_cases(const char *folder) {
  char path[4200];
  snprintf(path, sizeof path, "%s/cases.json", folder);
  return access(path, R_OK) == 0;
}

mr3d_status mr3d_find_golden(const char *given, char *path, mr3d_error *error) {
  const char *from = given ? "--golden" : "MR3D_GOLDEN";
  if (!given) given = getenv("MR3D_GOLDEN");
  if (given && *given) {
    snprintf(path, 4096, "%s", given);
    return has_cases(path)
               ? MR3D_OK
               : mr3d_fail(error, MR3D_IO, "%s %s: there is no cases.json in that folder; it should be the suite's golden/", from, given);
  }
  char program[3000];
  ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
  if (length > 0) {
    program[length] = '\0';
    *strrchr(program, '/') = '\0';
    static const char *const places[] = {"../../golden", "../share/mr3d/golden"}; /* build tree, installed */
    for (int i = 0; i < 2; i++) {
      snprintf(path, 4096, "%s/%s", program, places[i]);
      if (has_cases(path)) return MR3D_OK;
    }
  }
  return mr3d_fail(
      error, MR3D_IO,
      "the golden set was not found: not beside the program (../../golden, ../share/mr3d/golden); give --golden DIR or set MR3D_GOLDEN");
}

const char *mr3d_find_data(const char *given) {
  const char *data = given ? given : getenv("MR3D_DATA");
  return data && *data ? data : NULL;
}
