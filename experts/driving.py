"""Driving round stopped cars: the instrument for mode coverage, and the scripted expert that drives it.

A car moves along x on a road of three lanes and meets one (`LaneChange-v0`) or three (`Slalom-v0`) stopped cars in the
middle lane. Each is passed left or right equally well, so demonstrations have 2 or 8 modes, and the mean of two good
actions is a collision. Distances in m, speeds in m/s, y grows to the left.
"""

import copy
import os

import gymnasium as gym
import numpy as np

OBSTACLE_X = (45.0, 90.0, 135.0)
ROAD_HALF_WIDTH = 5.2  # |y| beyond this leaves the road
CONTACT_X, CONTACT_Y = 4.5, 2.0  # contact is |Δx| < 4.5 and |y| < 2.0
ROAD_AFTER_LAST = 15.0
PHYSICS_HZ = 20
SIDE_Y = 3.6  # the expert's lateral target beside an obstacle
DECIDE_AT = 30.0  # and the distance at which it starts to aim for it


class DrivingEnv(gym.Env):
    """One road with `num_obstacles` stopped cars.

    Observation (4,): distance to the next obstacle / 40, y / 4, lateral velocity / 3, (speed - 10) / 3. Behind the last
    obstacle the distance is negative. Action (2,) in [-1, 1]: target y / 4 and (target speed - 10) / 5, held for
    1 / `decision_hz` seconds (an integer number of physics steps) and tracked by a rate-limited controller. Reward:
    share of the road covered, so that a finished road returns 1. Contact or leaving the road ends the episode. The last
    info has `is_success`, `mode` (the side taken at each obstacle passed, such as "LRL") and `num_modes`.

    The human render mode opens a window and plays in real time. `on_frame`, if set, is called after each physics step.
    `disturbed` starts are y uniform in ±4 m, lateral velocity in ±1 m/s and speed in 8–12 m/s, not ±0.8, 0 and 9–11.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 2}

    def __init__(self, num_obstacles=1, decision_hz=1, disturbed=False, render_mode=None):
        if PHYSICS_HZ % decision_hz:
            raise ValueError(f"decision_hz must divide {PHYSICS_HZ}, got {decision_hz}")
        self.obstacles = OBSTACLE_X[:num_obstacles]
        self.road_length = self.obstacles[-1] + ROAD_AFTER_LAST
        self.num_substeps = PHYSICS_HZ // decision_hz
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.metadata = self.metadata | {"render_fps": max(2, decision_hz)}
        self.render_mode, self.screen, self.disturbed = render_mode, None, disturbed
        self.on_frame = self.render if render_mode == "human" else None

    def reset(self, *, seed=None, options=None):
        """`options` may hold `y` (m), `speed` and `lateral_velocity` (m/s) of the start: disturbed starts."""
        super().reset(seed=seed)
        spread_y, spread_vy, spread_vx = (4.0, 1.0, 2.0) if self.disturbed else (0.8, 0.0, 1.0)
        options = options or {}
        self.y = float(options.get("y", self.np_random.uniform(-spread_y, spread_y)))
        self.vx = float(options.get("speed", self.np_random.uniform(10.0 - spread_vx, 10.0 + spread_vx)))
        drift = self.np_random.uniform(-spread_vy, spread_vy) if spread_vy else 0.0
        self.x, self.vy = 0.0, float(options.get("lateral_velocity", drift))
        self.mode, self.crashed, self.trail = "", False, [(self.x, self.y)]
        if self.on_frame:
            self.on_frame()
        return self._observation(), {}

    def step(self, action):
        if not np.isfinite(action).all():  # the car would stand for ever
            raise ValueError(f"the action must be finite, not {action}")
        target_y, target_speed = 4.0 * float(action[0]), 10.0 + 5.0 * float(action[1])
        start_x, finished = self.x, False
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
            info = {"is_success": not self.crashed, "mode": self.mode, "num_modes": 2 ** len(self.obstacles)}
        progress = (min(self.x, self.road_length) - start_x) / self.road_length
        return self._observation(), progress, self.crashed or finished, False, info

    def ends_badly(self, act, num_decisions):
        """Whether `act`, obs (1, 4) -> actions (1, 2), fails within so many decisions; nothing moves meanwhile."""
        ghost, obs = copy.copy(self), self._observation()
        ghost.trail, ghost.on_frame = [], None
        for _ in range(num_decisions):
            obs, _, done, _, info = ghost.step(act(obs[None])[0])
            if done:
                return not info["is_success"]
        return False

    def _move(self, target_y, target_speed, dt):
        lateral = min(max(4.0 * (target_y - self.y) - 4.0 * self.vy, -6.0), 6.0)
        self.vy = min(max(self.vy + lateral * dt, -3.0), 3.0)
        self.vx += min(max(2.0 * (target_speed - self.vx), -4.0), 3.0) * dt
        self.y += self.vy * dt
        before, self.x = self.x, self.x + self.vx * dt
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
        """The road from above, the car driving to the right, its path behind it: (200, 960, 3) uint8, or a window."""
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        import pygame

        width, height, lane = 960, 200, 2 * ROAD_HALF_WIDTH / 3
        scale_x, scale_y = width / (self.road_length + 8), 150 / (2 * ROAD_HALF_WIDTH)

        def rectangle(x, y, length, breadth):
            left, top = (x + 6 - length / 2) * scale_x, 115 - (y + breadth / 2) * scale_y
            return pygame.Rect(round(left), round(top), round(length * scale_x), round(breadth * scale_y))

        if self.screen is None:
            pygame.font.init()
            self.font = pygame.font.Font(None, 24)
            if self.render_mode == "human":
                pygame.display.init()
                pygame.display.set_caption("LaneChange-v0" if len(self.obstacles) == 1 else "Slalom-v0")
                self.screen = pygame.display.set_mode((width, height))
                self.clock = pygame.time.Clock()
            else:
                self.screen = pygame.Surface((width, height))
        self.screen.fill((106, 142, 95))
        road = rectangle(self.road_length / 2, 0, self.road_length + 40, 2 * ROAD_HALF_WIDTH)
        pygame.draw.rect(self.screen, (72, 76, 82), road)
        for x in np.arange(-4, self.road_length + 8, 6):
            for y in (-lane / 2, lane / 2):
                pygame.draw.rect(self.screen, (222, 222, 214), rectangle(x, y, 3, 0.14))
        pygame.draw.rect(self.screen, (240, 240, 240), rectangle(self.road_length, 0, 0.4, 2 * ROAD_HALF_WIDTH))
        for obstacle in self.obstacles:
            pygame.draw.rect(self.screen, (196, 62, 52), rectangle(obstacle, 0, 4.5, 2.0), border_radius=4)
        if len(self.trail) > 1:
            points = [rectangle(x, y, 0, 0).topleft for x, y in self.trail]
            pygame.draw.lines(self.screen, (150, 205, 255), False, points, 3)
        colour = (120, 60, 60) if self.crashed else (66, 135, 245)
        pygame.draw.rect(self.screen, colour, rectangle(self.x, self.y, 4.5, 2.0), border_radius=4)
        text = f"{self.vx:4.1f} m/s   {'crashed' if self.crashed else self.mode}"
        self.screen.blit(self.font.render(text, True, (255, 255, 255)), (12, 12))
        if self.render_mode == "human":
            pygame.event.pump()
            pygame.display.flip()
            self.clock.tick(PHYSICS_HZ)
            return None
        return np.transpose(pygame.surfarray.array3d(self.screen), (1, 0, 2)).copy()

    def close(self):
        if self.screen is not None and self.render_mode == "human":
            import pygame

            pygame.display.quit()
        self.screen = None


class DrivingExpert:
    """Draws a side for each obstacle, evenly and independently of the state, and holds to it.

    It aims for the centre until 30 m before an obstacle, then for 3.6 m to its side. Where the car has plainly
    committed to one side, it answers with that side, so that it can label states that another driver has reached.
    With `sides=[1.0]` it prefers the left: one mode.
    """

    return_mean, random_return = 1.0, None

    def __init__(self, seed=0, sides=(-1.0, 1.0)):
        self.sides, self.side = sides, np.zeros(0)
        self.seed(seed)

    def seed(self, seed):
        self.rng = np.random.default_rng(seed)

    def reset(self, starts):
        """`starts` (N,) bool: True where an episode begins; a side is drawn there."""
        if len(self.side) != len(starts):
            self.side, self.last_distance = np.zeros(len(starts)), np.full(len(starts), -np.inf)
        self.last_distance[starts] = -np.inf

    def __call__(self, obs):
        """obs (N, 4) -> actions (N, 2) float32 in [-1, 1]."""
        obs = np.asarray(obs)
        distance, y, vy = 40 * obs[:, 0], 4 * obs[:, 1], 3 * obs[:, 2]
        if len(self.side) != len(obs):
            self.reset(np.ones(len(obs), bool))
        draws = self.rng.choice(self.sides, len(obs))
        self.side = np.where(distance > self.last_distance + 1.0, draws, self.side)  # another obstacle is the next
        self.last_distance = distance
        heading_for = y + 0.5 * vy
        side = np.where(np.abs(heading_for) > 1.0, np.sign(heading_for), self.side)
        beside = (distance < DECIDE_AT) & (distance > -CONTACT_X)
        target_y = np.where(beside, side * SIDE_Y, 0.0)
        actions = np.stack([target_y / 4 + self.rng.normal(0, 0.03, len(obs)), self.rng.normal(0, 0.1, len(obs))], 1)
        return actions.clip(-1, 1).astype(np.float32)


prefers_left = DrivingExpert(sides=[1.0])  # --expert experts.driving:prefers_left
