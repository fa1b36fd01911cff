/**
 * Goal: a source that lost its link learns the decision by asking, whatever else asks or gets lost; and who
 * asks cannot harm a VM. Method: links cut at the moment of the decision, and strangers with questions of
 * their own.
 */
import { afterEach, describe, expect, it } from 'vitest';
import type { MemoryVm } from '../../src/backends/memory/index.ts';
import { answerQuestions, askDecision, memoryRegister, type OwnershipRegister } from '../../src/index.ts';
import { createWorld, type World, type WorldOptions } from '../support/worlds.ts';
import { runWithin, settledWithin } from './support/settled-within.ts';

const vms: MemoryVm[] = [];
function world(options: WorldOptions): World {
  const made = createWorld(options);
  vms.push(made.vm);
  return made;
}
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

/** A register that tells when it has claimed `owner`. */
function afterOwner(then: () => void): OwnershipRegister {
  const inner = memoryRegister();
  return {
    read: inner.read,
    claim: async (...args) => {
      const standing = await inner.claim(...args);
      if (args[3] === 'owner') then();
      return standing;
    },
  };
}

/** Somebody asks over the link of the migration, once; undefined if there was no answer. */
function ask({ link, environment }: World, vmId: string, epoch: number) {
  return askDecision({ transport: link.source, vmId, environment })(epoch, {}).catch(() => undefined);
}

async function expectCompleted(w: World) {
  const { source, destination } = await runWithin(w, 60_000);
  expect(source.error?.message).toBeUndefined();
  expect([source.outcome, destination.outcome]).toEqual(['completed', 'completed']);
  expect(w.comparison()?.equal).toBe(true);
  w.backend.vm?.destroy();
  return source;
}

describe('a source whose link is lost with the decision', () => {
  it('is answered, though somebody has asked about another VM', async () => {
    const registers = { source: memoryRegister(), destination: afterOwner(() => w.link.cut()) };
    const w = world({ registers, link: { rttMs: 20 } });
    w.source.on('phase', (phase) => {
      if (phase === 'copyDisks') void ask(w, 'another', 1);
    });
    await expectCompleted(w);
  });

  it('asks again when the answer is lost too', async () => {
    let cuts = 0;
    const cut = () => {
      cuts += 1;
      w.link.cut();
    };
    const inner = afterOwner(cut);
    const destination: OwnershipRegister = {
      claim: inner.claim,
      read: async (vmId) => {
        const claims = await inner.read(vmId);
        // The answer is on its way by then, and has not arrived.
        if (cuts === 1) w.environment.setTimer(1, cut);
        return claims;
      },
    };
    const w = world({
      registers: { source: memoryRegister(), destination },
      link: { rttMs: 20 },
      policy: { decideMsMax: 5000, outageMsMax: 0 },
    });
    await expectCompleted(w);
    expect(cuts).toBe(2);
  });
});

describe('a stranger', () => {
  it('who asks about the attempt while it copies is told nothing, and stops nothing', async () => {
    const w = world({});
    let answer: Promise<unknown> = Promise.resolve('not asked');
    // The first number that is drawn in a world like this one.
    const { epoch } = await expectCompleted(world({}));
    w.source.on('phase', (phase) => {
      if (phase === 'copyDisks') answer = ask(w, 'vm-1', epoch);
    });
    expect((await expectCompleted(w)).epoch).toBe(epoch);
    expect(await answer).toBeUndefined();
  });

  for (const epoch of [Number.MAX_SAFE_INTEGER, 2 ** 40]) {
    it(`who asks a host about attempt ${epoch} does not use up the numbers of the VM`, async () => {
      const destination = memoryRegister();
      const w = world({ idle: true, registers: { source: memoryRegister(), destination } });
      const { environment, link } = w;
      const stop = new AbortController();
      const answering = answerQuestions({
        transport: link.destination,
        register: destination,
        environment,
        signal: stop.signal,
      });
      expect(await settledWithin(environment, 60_000, ask(w, 'vm-1', epoch))).toBeUndefined();
      stop.abort();
      await settledWithin(environment, 60_000, answering);
      expect(await destination.read('vm-1')).toEqual([]);
      await expectCompleted(w);
    });

    it(`who asks a destination about attempt ${epoch} does not either`, async () => {
      const destination = memoryRegister();
      const w = world({ registers: { source: memoryRegister(), destination } });
      w.source.on('phase', (phase) => {
        if (phase === 'copyDisks') void ask(w, 'vm-1', epoch);
      });
      const { epoch: ours } = await expectCompleted(w);
      expect(await destination.read('vm-1')).toEqual([{ epoch: ours, role: 'destination', value: 'owner' }]);
    });
  }
});
