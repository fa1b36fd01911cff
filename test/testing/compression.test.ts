// Goal: compression breaks no rule of the oracle, whatever goes wrong, and a simulation with it can be repeated. Method: the swarm's scenarios over slow paths, with a codec at
// both hosts, which reads content when its call ends.
import { describe, expect, it } from 'vitest';
import { drawScenario } from '../../src/testing/sim/draw.ts';
import { withOutages } from '../../src/testing/sim/draw-outages.ts';
import { withStorage } from '../../src/testing/sim/draw-storage.ts';
import { repeatCodec } from '../../src/testing/sim/repeat-codec.ts';
import type { Scenario } from '../../src/testing/sim/scenario.ts';
import { simulate } from '../../src/testing/sim/simulate.ts';
import { createPrng } from '../../src/util/prng.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';

function compressed(scenario: Scenario): Scenario {
  return {
    ...scenario,
    paths: scenario.paths.map((path) => ({ ...path, rateMbit: Math.min(path.rateMbit ?? 40, 40) })),
    hosts: { ...scenario.hosts, codec: true },
    policy: { ...scenario.policy, compression: 'auto' },
  };
}

describe('the swarm, compressed', () => {
  it.each([
    ['as it is drawn', (_: number, scenario: Scenario) => scenario],
    ['with the link gone for a while', withOutages],
    ['with disks of every shape', withStorage],
  ] as const)('%s', { timeout: 180_000 }, async (_, change) => {
    let saved = 0;
    for (let seed = 1; seed <= 25; seed++) {
      const scenario = compressed(change(seed, drawScenario(seed)));
      const { violations, reports } = await simulate({ seed, scenario });
      expect({ seed, violations }).toEqual({ seed, violations: [] });
      if ((reports.source?.compression?.savedBytes ?? 0) > 0) saved++;
    }
    expect(saved).toBeGreaterThan(8);
  });

  it('is the same again from the same seed', async () => {
    const scenario = compressed(drawScenario(3));
    const digests = [];
    for (let count = 0; count < 2; count++) digests.push((await simulate({ seed: 3, scenario })).digest);
    expect(digests[1]).toBe(digests[0]);
  });
});

describe('the codec of simulations', () => {
  const environment = createVirtualEnvironment();
  const codec = repeatCodec(environment);
  const pages = (bytes: number) =>
    Uint8Array.from({ length: bytes }, (_, at) => (at % 4096 < 8 ? at >> 10 : at * 7));
  const noise = (bytes: number) => {
    const content = new Uint8Array(bytes);
    createPrng(bytes).fill(content);
    return content;
  };

  it('gives back what it was given, and takes its time', async () => {
    for (const bytes of [1, 15, 16, 17, 4096, 4111, 4112, 4113, 70_000, 1 << 20]) {
      for (const content of [pages(bytes), noise(bytes), new Uint8Array(bytes)]) {
        const beganMs = environment.now();
        const compressed = await environment.run(codec.compress(content));
        expect(environment.now() - beganMs).toBeCloseTo(bytes / 500e3, 9);
        const back = await environment.run(codec.decompress(compressed, bytes));
        expect(Buffer.compare(back, content)).toBe(0);
      }
    }
  });

  it('shrinks simulated content', async () => {
    const compressed = await environment.run(codec.compress(pages(1 << 20)));
    expect(compressed.byteLength).toBeLessThan((1 << 20) / 50);
  });

  it('refuses what does not come to just that', async () => {
    const compressed = await environment.run(codec.compress(pages(10_000)));
    const cases: readonly (readonly [Uint8Array, number])[] = [
      [compressed, 9999],
      [compressed, 10_001],
      [compressed.subarray(0, compressed.byteLength - 1), 10_000],
      [new Uint8Array(0), 1],
      [new Uint8Array(3), 1],
      [new Uint8Array(8).fill(0xff), 10_000],
    ];
    for (const [data, length] of cases) {
      const refused = codec.decompress(data, length).then(
        () => undefined,
        (error: unknown) => error,
      );
      expect(await environment.run(refused)).toBeInstanceOf(Error);
    }
  });
});
