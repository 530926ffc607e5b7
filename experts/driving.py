"""Driving past stopped cars: an environment that shows mode coverage, and its scripted expert.

A car moves along x on a road of three lanes and meets one (`LaneChange-v0`) or three (`Slalom-v0`)
stopped cars in the middle lane. Each is passed left or right equally well, so demonstrations have 2
or 8 modes, and the mean of two good actions is a collision. Distances are in m, speeds in m/s, and
y grows to the left.

An action is held for 2 s, which is 20 m at 10 m/s. All episodes start in the same state, 30 m
before the first stopped car, and the first action chooses the side: half of the demonstrations go
left from there, half right. The second, 10 m before the stopped car, comes too late to choose anew
and keeps to the side. The next two return to the centre and stay there; after them the next stopped
car of the Slalom is 30 m ahead.
"""

import os

import gymnasium as gym
import numpy as np

FIRST_OBSTACLE = 30.0  # one action, and the 10 m in which a car cannot leave the centre
OBSTACLE_SPACING = 80.0  # four actions: to one side, past the obstacle, and two in the centre
ROAD_HALF_WIDTH = 5.2  # |y| beyond this leaves the road
DISTURBED_X = 5.0  # 25 m before the obstacle, a car far to one side can only pass there
CONTACT_X = 4.5  # contact is |Δx| < 4.5 and |y| < 2.0
CONTACT_Y = 2.0
ROAD_AFTER_LAST = 35.0  # the road ends on the way back to the centre
PHYSICS_HZ = 20
SIDE_Y = 3.6  # the expert's lateral target beside an obstacle
DECIDE_AT = 40.0  # and the distance from which on it aims for it: at 30 m, and not yet at 50 m

WIDTH = 960  # of the picture, in pixels
HEIGHT = 200


def import_pygame():
    """pygame, without its greeting; imported where something is drawn, as it takes a while."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import pygame

    return pygame


class DrivingEnv(gym.Env):
    """One road with `num_obstacles` stopped cars.

    Observation (4,): distance to the next obstacle / 40, y / 4, lateral velocity / 3 and
    (speed - 10) / 3. Behind the last obstacle the distance is negative.

    Action (2,) in [-1, 1]: target y / 4 and (target speed - 10) / 5, held for `decision_seconds`
    (a whole number of physics steps) and tracked by a rate-limited controller.

    Reward: share covered of the road ahead, so that a finished road returns 1. Contact or leaving
    the road ends the episode. The last info has `is_success` and `mode` (the side taken at each
    obstacle passed, such as "LRL").

    An episode starts in the centre, at 10 m/s and without lateral velocity; `disturbed`: 25 m
    before the obstacle, with y in ±4 m, lateral velocity in ±1 m/s and speed in 8-12 m/s.

    Render modes: `human` opens a window and plays in real time, `rgb_array` returns the current
    frame, `rgb_array_list` all frames since the last call, 20 for each second of driving.
    `on_frame`, if set, is called at a reset and after each physics step.
    """

    metadata = {"render_modes": ["human", "rgb_array", "rgb_array_list"], "render_fps": 2}

    def __init__(self, num_obstacles=1, decision_seconds=2.0, disturbed=False, render_mode=None):
        num_substeps = round(decision_seconds * PHYSICS_HZ, 6)
        if not num_substeps >= 1 or num_substeps % 1:
            raise ValueError(
                f"decision_seconds must be a multiple of {1 / PHYSICS_HZ}, got {decision_seconds}"
            )
        if num_obstacles < 1:
            raise ValueError(f"num_obstacles must be at least 1, got {num_obstacles}")
        self.obstacles = [FIRST_OBSTACLE + OBSTACLE_SPACING * i for i in range(num_obstacles)]
        self.road_length = self.obstacles[-1] + ROAD_AFTER_LAST
        self.num_substeps = int(num_substeps)
        self.disturbed = disturbed

        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.render_mode = render_mode
        self.screen = None
        self.frames = []
        self.on_frame = None
        frames_per_second = max(2, round(1 / decision_seconds))
        if render_mode == "human":
            self.on_frame = self.render
        elif render_mode == "rgb_array_list":
            self.on_frame = lambda: self.frames.append(self._draw())
            frames_per_second = PHYSICS_HZ
        self.metadata = self.metadata | {"render_fps": frames_per_second}

    def reset(self, *, seed=None, options=None):
        """`options` may hold the start's `y` (m), `speed` and `lateral_velocity` (m/s)."""
        super().reset(seed=seed)
        options = options or {}
        y, speed, lateral_velocity = 0.0, 10.0, 0.0
        if self.disturbed:
            y, speed, lateral_velocity = self.np_random.uniform((-4, 8, -1), (4, 12, 1))

        self.x = DISTURBED_X if self.disturbed else 0.0
        self.y = float(options.get("y", y))
        self.vx = float(options.get("speed", speed))
        self.vy = float(options.get("lateral_velocity", lateral_velocity))
        self.mode = ""
        self.crashed = False
        self.road_ahead = self.road_length - self.x
        self.trail = [(self.x, self.y)]
        self.frames = []
        if self.on_frame:
            self.on_frame()
        return self._observation(), {}

    def step(self, action):
        if not np.isfinite(action).all():  # the car would never arrive
            raise ValueError(f"the action must be finite, not {action}")
        target_y = 4.0 * float(action[0])
        target_speed = 10.0 + 5.0 * float(action[1])

        start_x = self.x
        finished = False
        for _ in range(self.num_substeps):
            self._move(target_y, target_speed, 1.0 / PHYSICS_HZ)
            self.trail.append((self.x, self.y))
            finished = self.x >= self.road_length
            if self.on_frame:
                self.on_frame()
            if self.crashed or finished:
                break

        info = {}
        if self.crashed or finished:
            info["is_success"] = not self.crashed
            info["mode"] = self.mode
        progress = (min(self.x, self.road_length) - start_x) / self.road_ahead
        return self._observation(), progress, self.crashed or finished, False, info

    def _move(self, target_y, target_speed, dt):
        """One physics step towards the targets, with limited acceleration."""
        lateral = min(max(4.0 * (target_y - self.y) - 4.0 * self.vy, -6.0), 6.0)
        self.vy = min(max(self.vy + lateral * dt, -3.0), 3.0)
        self.vx += min(max(2.0 * (target_speed - self.vx), -4.0), 3.0) * dt
        self.y += self.vy * dt
        before = self.x
        self.x += self.vx * dt

        for obstacle in self.obstacles:
            if before < obstacle <= self.x:
                self.mode += "L" if self.y > 0 else "R"
            if abs(self.x - obstacle) < CONTACT_X and abs(self.y) < CONTACT_Y:
                self.crashed = True
        if abs(self.y) > ROAD_HALF_WIDTH:
            self.crashed = True

    def _observation(self):
        ahead = [obstacle for obstacle in self.obstacles if self.x < obstacle + CONTACT_X]
        distance = (ahead[0] if ahead else self.obstacles[-1]) - self.x
        return np.array([distance / 40, self.y / 4, self.vy / 3, (self.vx - 10) / 3], np.float32)

    def render(self):
        """The road from above, the car driving to the right: (200, 960, 3) uint8, or a window."""
        if self.render_mode == "rgb_array_list":
            frames = self.frames
            self.frames = []
            return frames
        return self._draw()

    def _draw(self):
        pygame = import_pygame()
        if self.screen is None:
            self._open_screen()
        self._draw_road()
        self._draw_cars()
        text = f"{self.vx:4.1f} m/s"
        if self.crashed:
            text += "   crashed"
        elif self.mode:
            sides = ["left" if side == "L" else "right" for side in self.mode]
            text += f"   passed {', '.join(sides)}"
        self.screen.blit(self.font.render(text, True, (255, 255, 255)), (12, 12))

        if self.render_mode == "human":
            pygame.event.pump()
            pygame.display.flip()
            self.clock.tick(PHYSICS_HZ)
            return None
        return np.transpose(pygame.surfarray.array3d(self.screen), (1, 0, 2)).copy()

    def _open_screen(self):
        """A window in the human render mode, otherwise a surface in memory."""
        pygame = import_pygame()
        pygame.font.init()
        self.font = pygame.font.Font(None, 24)
        if self.render_mode == "human":
            pygame.display.init()
            name = "LaneChange-v0" if len(self.obstacles) == 1 else "Slalom-v0"
            pygame.display.set_caption(name)
            self.screen = pygame.display.set_mode((WIDTH, HEIGHT))
            self.clock = pygame.time.Clock()
        else:
            self.screen = pygame.Surface((WIDTH, HEIGHT))

    def _rectangle(self, x, y, length, breadth):
        """The pixels of a rectangle on the road, by its centre and size in m."""
        scale_x = WIDTH / (self.road_length + 8)
        scale_y = 150 / (2 * ROAD_HALF_WIDTH)
        left = (x + 6 - length / 2) * scale_x
        top = 115 - (y + breadth / 2) * scale_y
        size = (round(length * scale_x), round(breadth * scale_y))
        return import_pygame().Rect((round(left), round(top)), size)

    def _draw_road(self):
        """The road, its lane markings and the finish line."""
        draw = import_pygame().draw
        width = 2 * ROAD_HALF_WIDTH
        self.screen.fill((106, 142, 95))
        road = self._rectangle(self.road_length / 2, 0, self.road_length + 40, width)
        draw.rect(self.screen, (72, 76, 82), road)
        for x in np.arange(-4, self.road_length + 8, 6):
            for y in (-width / 6, width / 6):
                draw.rect(self.screen, (222, 222, 214), self._rectangle(x, y, 3, 0.14))
        finish = self._rectangle(self.road_length, 0, 0.4, width)
        draw.rect(self.screen, (240, 240, 240), finish)

    def _draw_cars(self):
        """The stopped cars in red, the moving one in blue with its path behind it."""
        draw = import_pygame().draw
        for obstacle in self.obstacles:
            stopped = self._rectangle(obstacle, 0, 4.5, 2.0)
            draw.rect(self.screen, (196, 62, 52), stopped, border_radius=4)
        if len(self.trail) > 1:
            points = [self._rectangle(x, y, 0, 0).topleft for x, y in self.trail]
            draw.lines(self.screen, (150, 205, 255), False, points, 3)
        colour = (120, 60, 60) if self.crashed else (66, 135, 245)
        car = self._rectangle(self.x, self.y, 4.5, 2.0)
        draw.rect(self.screen, colour, car, border_radius=4)

    def close(self):
        if self.screen is not None and self.render_mode == "human":
            import_pygame().display.quit()
        self.screen = None


class DrivingExpert:
    """Draws a side for each obstacle, evenly and independently of the state, and holds to it.

    It aims for the centre until 40 m before an obstacle, then for 3.6 m to its side. Where the car
    has plainly committed to one side, it answers with that side, so that it can label states that
    another driver has reached. With `sides=[1.0]` it prefers the left: one mode.

    Its targets vary a little: by 0.12 m, and by 0.1 m/s, which over the whole Slalom adds up to
    less than 1 m along the road.
    """

    def __init__(self, seed=0, sides=(-1.0, 1.0)):
        self.sides = sides
        self.seed(seed)

    def seed(self, seed):
        # With the seed alone, it would draw the numbers of an environment with the same seed.
        self.rng = np.random.default_rng([seed, 1])
        self.side = np.zeros(0)
        self.last_distance = np.zeros(0)

    def __call__(self, obs):
        """obs (N, 4) -> actions (N, 2) float32 in [-1, 1]."""
        distance = 40 * obs[:, 0]
        y = 4 * obs[:, 1]
        lateral_velocity = 3 * obs[:, 2]
        if len(self.side) != len(obs):
            self.side = np.zeros(len(obs))
            self.last_distance = np.full(len(obs), -np.inf)

        # The distance jumps up where an obstacle is passed and where an episode begins.
        draws = self.rng.choice(self.sides, len(obs))
        self.side = np.where(distance > self.last_distance + 1.0, draws, self.side)
        self.last_distance = distance

        heading_for = y + 0.5 * lateral_velocity
        side = np.where(np.abs(heading_for) > 1.0, np.sign(heading_for), self.side)
        beside = (distance < DECIDE_AT) & (distance > -CONTACT_X)
        target_y = np.where(beside, side * SIDE_Y, 0.0) / 4 + self.rng.normal(0, 0.03, len(obs))
        target_speed = self.rng.normal(0, 0.02, len(obs))
        return np.stack([target_y, target_speed], axis=1).clip(-1, 1).astype(np.float32)


prefers_left = DrivingExpert(sides=[1.0])  # --expert experts.driving:prefers_left
mostly_left = DrivingExpert(sides=[1.0, 1.0, 1.0, 1.0, -1.0])  # 80% left
