#include "room.h"

#include <math.h>
#include <stdbool.h>

#include "mr3d/random.h"

/** An axis-aligned box in room coordinates (corner at the origin). */
typedef struct box {
  double lo[3], hi[3];
  uint8_t colour[3];
} box;

enum { X, Y, Z };
enum { N_STATIONS = 2, MAX_BOXES = 40 };

typedef struct scene {
  box shell;  /* seen from inside */
  box window; /* the hole in the wall x = length; its x range is not used */
  int n_boxes;
  box boxes[MAX_BOXES];
  double station[N_STATIONS][3];
} scene;

static void add_box(scene *s, double x, double y, double z, double dx, double dy, double dz, uint8_t r, uint8_t g, uint8_t b) {
  s->boxes[s->n_boxes++] = (box){{x, y, z}, {x + dx, y + dy, z + dz}, {r, g, b}};
}

/** A slab of dx x dy at height z and thickness t on four legs of 5 cm. */
static void add_table(scene *s, double x, double y, double dx, double dy, double z, double t, uint8_t r, uint8_t g, uint8_t b) {
  const double leg = 0.05;
  add_box(s, x, y, z, dx, dy, t, r, g, b);
  for (int i = 0; i < 4; i++)
    add_box(s, x + (i & 1) * (dx - leg), y + (i >> 1) * (dy - leg), 0, leg, leg, z, r, g, b);
}

/** A seat on four legs with a back on its far side in y. */
static void add_chair(scene *s, double x, double y, bool back_at_high_y) {
  add_table(s, x, y, 0.44, 0.44, 0.42, 0.04, 96, 64, 40);
  add_box(s, x, back_at_high_y ? y + 0.40 : y, 0.46, 0.44, 0.04, 0.46, 104, 70, 44);
}

/** Furniture stands at fixed shares of the room, so other sizes give other, still plausible rooms. */
static void furnish(scene *s, const mr3d_room_parameters *p) {
  const double l = p->length, w = p->width, h = p->height;
  s->shell = (box){{0, 0, 0}, {l, w, h}, {0, 0, 0}};
  s->window = (box){{l, 0.30 * w, 0.35 * h}, {l, 0.70 * w, 0.80 * h}, {0, 0, 0}};
  s->n_boxes = 0;
  add_table(s, 0.42 * l, 0.40 * w, 1.40, 0.80, 0.71, 0.04, 150, 111, 51);
  add_chair(s, 0.42 * l + 0.20, 0.40 * w - 0.50, false);
  add_chair(s, 0.42 * l + 0.76, 0.40 * w - 0.50, false);
  add_chair(s, 0.42 * l + 0.20, 0.40 * w + 0.86, true);
  add_chair(s, 0.42 * l + 0.76, 0.40 * w + 0.86, true);
  add_box(s, 0, 0.15 * w, 0, 0.42, 1.10, 1.95, 70, 84, 96);       /* cupboard at the wall x = 0 */
  add_box(s, 0.12 * l, w - 0.85, 0, 1.70, 0.85, 0.40, 52, 73, 94); /* sofa: seat and back */
  add_box(s, 0.12 * l, w - 0.20, 0.40, 1.70, 0.20, 0.42, 52, 73, 94);
  const double station[N_STATIONS][3] = {{0.30 * l, 0.30 * w, 1.45}, {0.72 * l, 0.78 * w, 1.20}};
  for (int i = 0; i < N_STATIONS; i++)
    for (int a = 0; a < 3; a++) s->station[i][a] = station[i][a];
}

/** Where a ray enters a box from outside: its range and the axis of the face, or false. Slab method; directions have no zero. */
static bool enter_box(const box *b, const double from[3], const double along[3], double *range, int *axis) {
  double near = 0, far = INFINITY;
  int face = -1;
  for (int a = 0; a < 3; a++) {
    double t0 = (b->lo[a] - from[a]) / along[a], t1 = (b->hi[a] - from[a]) / along[a];
    if (t0 > t1) { const double t = t0; t0 = t1; t1 = t; }
    if (t0 > near) { near = t0; face = a; }
    if (t1 < far) far = t1;
  }
  if (face < 0 || near > far) return false;
  *range = near;
  *axis = face;
  return true;
}

/** Where a ray meets the room's walls, floor or ceiling from inside. */
static double leave_shell(const box *shell, const double from[3], const double along[3], int *axis) {
  double best = INFINITY;
  for (int a = 0; a < 3; a++) {
    const double t = ((along[a] > 0 ? shell->hi[a] : shell->lo[a]) - from[a]) / along[a];
    if (t < best) { best = t; *axis = a; }
  }
  return best;
}

/** A unit vector, uniform on the sphere: points of the cube's grid rejected outside the ball. */
static void draw_direction(mr3d_stream stream, int64_t ray, double along[3]) {
  for (uint64_t attempt = 0;; attempt++) {
    const uint64_t word = mr3d_random_raw(stream, (uint64_t)ray * 64 + attempt);
    double v[3], square = 0;
    for (int a = 0; a < 3; a++) {
      v[a] = ((double)((word >> (21 * a)) & 0x1FFFFF) - 1048575.5) / 1048576.0;
      square += v[a] * v[a];
    }
    if (square > 1 || square < 0.01) continue;
    const double norm = sqrt(square);
    for (int a = 0; a < 3; a++) along[a] = v[a] / norm;
    return;
  }
}

/** Base colour of the shell: floor in planks, white ceiling, two-tone walls. */
static void shell_colour(const double hit[3], int axis, uint8_t colour[3]) {
  const bool plank = ((int64_t)(hit[Y] / 0.14) + (int64_t)(hit[X] / 0.9)) & 1;
  const uint8_t floor_[2][3] = {{168, 131, 92}, {152, 115, 78}}, ceiling[3] = {236, 236, 232}, wall[2][3] = {{214, 206, 190}, {198, 212, 216}};
  const uint8_t *c = axis == Z ? (hit[Z] < 0.5 ? floor_[plank] : ceiling) : wall[axis == Y];
  for (int i = 0; i < 3; i++) colour[i] = c[i];
}

static bool in_window(const scene *s, const double hit[3], int axis) {
  return axis == X && hit[X] > s->shell.hi[X] * 0.5 && hit[Y] > s->window.lo[Y] && hit[Y] < s->window.hi[Y] && hit[Z] > s->window.lo[Z] &&
         hit[Z] < s->window.hi[Z];
}

/** One ray: writes x, y, z, red, green, blue. `noise` is a bell of unit variance, `luck` and `tint` are uniform. */
static void cast_ray(const scene *s, const mr3d_room_parameters *p, const double from[3], const double along[3], double noise, double luck, double tint,
                     double row[6]) {
  int axis = Z;
  double range = leave_shell(&s->shell, from, along, &axis);
  const box *target = NULL;
  for (int i = 0; i < s->n_boxes; i++) {
    double t;
    int face;
    if (enter_box(&s->boxes[i], from, along, &t, &face) && t < range) { range = t; axis = face; target = &s->boxes[i]; }
  }
  double hit[3];
  for (int a = 0; a < 3; a++) hit[a] = from[a] + range * along[a];

  const bool grazing = fabs(along[axis]) < 0.04;
  if (!target && in_window(s, hit, axis)) {
    for (int a = 0; a < 3; a++) row[a] = INFINITY;
  } else if (grazing || luck < p->dropout) {
    for (int a = 0; a < 3; a++) row[a] = NAN;
  } else {
    const double measured = range + noise * (p->noise + p->noise_per_m2 * range * range);
    uint8_t colour[3];
    if (target) for (int i = 0; i < 3; i++) colour[i] = target->colour[i];
    else shell_colour(hit, axis, colour);
    for (int a = 0; a < 3; a++) row[a] = (double)(float)(p->origin[a] + from[a] + measured * along[a]);
    const double shade = 0.70 + 0.22 * fabs(along[axis]) + 0.08 * tint;
    for (int i = 0; i < 3; i++) row[3 + i] = (double)(int64_t)(colour[i] * shade);
  }
}

mr3d_room_parameters mr3d_room_canonical(void) {
  return (mr3d_room_parameters){
      .seed = 0, .rays = 106328, .length = 5.96, .width = 3.54, .height = 2.75, .origin = {-1.37, -1.61, -1.45},
      .noise = 0.002, .noise_per_m2 = 0.0004, .dropout = 0.03};
}

static mr3d_status check_parameters(const mr3d_room_parameters *p, mr3d_error *error) {
  const struct { const char *name; double value, lo, hi; } ranges[] = {
      {"rays", (double)p->rays, 1, 1e8},        {"length", p->length, 3.5, 30}, {"width", p->width, 3, 30}, {"height", p->height, 2.1, 10},
      {"noise", p->noise, 0, 0.1}, {"noise-per-m2", p->noise_per_m2, 0, 0.01}, {"dropout", p->dropout, 0, 1}};
  for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
    if (!(ranges[i].value >= ranges[i].lo && ranges[i].value <= ranges[i].hi))
      return mr3d_fail(error, MR3D_INVALID, "%s is %g, expected %g to %g", ranges[i].name, ranges[i].value, ranges[i].lo, ranges[i].hi);
  return MR3D_OK;
}

mr3d_status mr3d_room_scan(const mr3d_room_parameters *p, mr3d_bundle **bundle, mr3d_error *error) {
  const mr3d_status status = check_parameters(p, error);
  if (status) return status;

  scene s;
  furnish(&s, p);
  mr3d_bundle *scan = mr3d_bundle_new();
  mr3d_tensor *points = mr3d_bundle_add(scan, "points", MR3D_F64, 2, (int64_t[]){p->rays, 6});
  double *rows = points->data;

  mr3d_bundle *draws = mr3d_bundle_new();
  const struct { const char *name; mr3d_draw draw; } columns[3] = {
      {"room/noise", {.dist = MR3D_NORMAL, .scale = 1}}, {"room/luck", {.dist = MR3D_UNIFORM, .hi = 1, .scale = 1}}, {"room/tint", {.dist = MR3D_UNIFORM, .hi = 1, .scale = 1}}};
  const double *drawn[3];
  for (int i = 0; i < 3; i++) {
    mr3d_tensor *column = mr3d_bundle_add(draws, columns[i].name, MR3D_F64, 1, (int64_t[]){p->rays});
    mr3d_random_draw(&columns[i].draw, mr3d_stream_named(p->seed, columns[i].name), column);
    drawn[i] = column->data;
  }
  const mr3d_stream directions = mr3d_stream_named(p->seed, "room/direction");
  for (int64_t ray = 0; ray < p->rays; ray++) {
    double along[3];
    draw_direction(directions, ray, along);
    cast_ray(&s, p, s.station[ray % N_STATIONS], along, drawn[0][ray], drawn[1][ray], drawn[2][ray], rows + 6 * ray);
  }
  mr3d_bundle_free(&draws);
  *bundle = scan;
  return MR3D_OK;
}
