/**
 * Goal: whatever an attempt had come to when both ends died, `recover()` at each of them brings the VM to run
 * at one end, the one that the table in docs/failure-model.md names, also if it dies half-way; and its errors
 * say who owns the VM and how the guest is.
 *
 * Method: every point of the table, with real registers, recovered in both orders, where each operation on a
 * register or a VM in turn fails, before or after it took effect, and recovery is then called again.
 */
import { describe, expect, it } from 'vitest';
import { answerTo, type Decision } from '../../../src/core/handover/ownership.ts';
import { type RecoveryReport, recover } from '../../../src/core/handover/recover.ts';
import { MigrationError } from '../../../src/errors.ts';
import type { Claim, OwnershipRegister } from '../../../src/interfaces/register.ts';
import { memoryRegister } from '../../../src/registers/memory-register.ts';
import { points, reach, rowOf } from './failure-table.ts';
import { claimsOf } from './world.ts';

const vmId = 'vm-1';

/** Lets one operation in turn die: `at` counts them, from 0; `after` says whether it took effect. */
class Fault {
  #left: number;
  readonly #after: boolean;

  constructor(at: number, after: boolean) {
    this.#left = at;
    this.#after = after;
  }

  get happened(): boolean {
    return this.#left < 0;
  }

  async around<T>(operation: () => Promise<T>): Promise<T> {
    this.#left -= 1;
    if (this.#left !== -1) return operation();
    if (this.#after) await operation();
    throw new MigrationError('internal', 'the process died here');
  }
}

async function registerWith(claims: readonly Claim[]): Promise<OwnershipRegister> {
  const register = memoryRegister();
  for (const { epoch, role, value } of claims) await register.claim(vmId, epoch, role, value);
  return register;
}

function failing(register: OwnershipRegister, fault: Fault): OwnershipRegister {
  return {
    claim: (...input) => fault.around(() => register.claim(...input)),
    read: (...input) => fault.around(() => register.read(...input)),
  };
}

/** Both hosts, with a VM at each, at a point of the table. */
class Hosts {
  readonly shared: boolean;
  readonly registers: Readonly<Record<'source' | 'destination', OwnershipRegister>>;
  readonly guests: { source: string; destination: string };

  constructor(shared: boolean, registers: Hosts['registers'], guests: Hosts['guests']) {
    this.shared = shared;
    this.registers = registers;
    this.guests = guests;
  }

  static async at(point: (typeof points)[number], shared: boolean): Promise<Hosts> {
    const world = reach(point, shared);
    const source = await registerWith(claimsOf(world, 'source'));
    const destination = shared ? source : await registerWith(claimsOf(world, 'destination'));
    const guests = { source: world.source.guest, destination: world.destination.guest };
    return new Hosts(shared, { source, destination }, guests);
  }

  async #become(end: 'source' | 'destination', guest: string): Promise<void> {
    const over = end === 'source' ? 'released' : 'discarded';
    if (this.guests[end] === over && guest === 'running') throw new Error(`the ${end}'s VM is gone`);
    this.guests[end] = guest;
    if (this.guests.source === 'running' && this.guests.destination === 'running')
      throw new Error('both run');
  }

  recover(
    end: 'source' | 'destination',
    fault = new Fault(Number.POSITIVE_INFINITY, false),
  ): Promise<RecoveryReport> {
    return end === 'source' ? this.#recoverSource(fault) : this.#recoverDestination(fault);
  }

  #recoverSource(fault: Fault): Promise<RecoveryReport> {
    const register = failing(this.registers.source, fault);
    const vm = {
      resume: () => fault.around(() => this.#become('source', 'running')),
      detach: () => fault.around(async () => {}),
      release: () => fault.around(() => this.#become('source', 'released')),
    };
    const ask = (epoch: number) => fault.around(() => this.#answer(epoch));
    return recover({ role: 'source', vmId, register, vm, ask, epoch: this.shared ? 1 : undefined });
  }

  async #answer(epoch: number): Promise<Decision | undefined> {
    const register = this.registers.destination;
    const answer = answerTo(await register.read(vmId), epoch, false);
    if (answer === 'pending') return undefined;
    if (answer !== 'decline') return answer;
    return (await register.claim(vmId, epoch, 'destination', 'declined')) as Decision;
  }

  #recoverDestination(fault: Fault): Promise<RecoveryReport> {
    const register = failing(this.registers.destination, fault);
    const vm = {
      start: () => fault.around(() => this.#become('destination', 'running')),
      discard: () => fault.around(() => this.#become('destination', 'discarded')),
    };
    return recover({ role: 'destination', vmId, register, vm, epoch: 1 });
  }
}

describe.each([true, false])('every point of the table (shared register: %s)', (shared) => {
  describe.each([
    ['the source first', ['source', 'destination']],
    ['the destination first', ['destination', 'source']],
  ] as const)('%s', (_, order) => {
    it.each(points)('$name', async (point) => {
      const expected = rowOf(point).at(-1);
      for (const after of [false, true]) {
        let faulted = true;
        for (let at = 0; faulted; at += 1) {
          const hosts = await Hosts.at(point, shared);
          const fault = new Fault(at, after);
          for (const end of order) await hosts.recover(end, fault).catch(() => hosts.recover(end, fault));
          faulted = fault.happened;
          const owners = Object.entries(hosts.guests).filter(([, guest]) => guest === 'running');
          expect(owners).toEqual([[expected, 'running']]);
          // Again, when all is settled: nothing changes.
          const before = { ...hosts.guests };
          const reports = [await hosts.recover('source'), await hosts.recover('destination')];
          expect(hosts.guests).toEqual(before);
          for (const report of reports) expect(report).toMatchObject({ vmId, owner: expected });
        }
      }
    });
  });
});

const noVm = { source: 'stunned', destination: 'complete' };

async function sourceWith(words: readonly Claim['value'][]): Promise<OwnershipRegister> {
  const roles = {
    given: 'source',
    owner: 'destination',
    declined: 'destination',
    reclaimed: 'return',
  } as const;
  return registerWith(words.map((value) => ({ epoch: 1, role: roles[value], value })));
}

describe('what recover reports', () => {
  it('the source never gave the VM away: resumed', async () => {
    const hosts = new Hosts(
      false,
      { source: await sourceWith([]), destination: memoryRegister() },
      { ...noVm },
    );
    const report = await hosts.recover('source');
    expect(report).toEqual({ vmId, epoch: 0, owner: 'source', action: 'resumed' });
    expect(Object.isFrozen(report)).toBe(true);
  });

  it.each([
    [['given'], 'declined', 'reclaimed', 'source'],
    [['given'], 'owner', 'released', 'destination'],
    [['given'], undefined, 'undecided', 'undecided'],
    [['given', 'reclaimed'], 'declined', 'resumed', 'source'],
  ] as const)('the source with %j, answered %s: %s', async (words, answer, action, owner) => {
    const called: string[] = [];
    const vm = {
      resume: async () => void called.push('resume'),
      detach: async () => void called.push('detach'),
      release: async () => void called.push('release'),
    };
    const register = await sourceWith(words);
    const report = await recover({ role: 'source', vmId, register, vm, ask: async () => answer });
    expect(report).toEqual({ vmId, epoch: 1, owner, action });
    expect(called).toEqual({ source: ['resume', 'detach'], destination: ['release'], undecided: [] }[owner]);
  });

  it('without anybody to ask the owner stays undecided, and the guest as it is', async () => {
    const register = await sourceWith(['given']);
    expect(await recover({ role: 'source', vmId, register })).toMatchObject({
      action: 'undecided',
      owner: 'undecided',
    });
    expect(await register.read(vmId)).toHaveLength(1);
  });

  it.each([
    [['owner'], undefined, 'started', 'destination'],
    [['declined'], 1, 'declined', 'source'],
    [[], 3, 'declined', 'source'],
  ] as const)('the destination with %j, told %s: %s', async (words, epoch, action, owner) => {
    const register = await sourceWith(words);
    const vm = { start: async () => {}, discard: async () => {} };
    const report = await recover({ role: 'destination', vmId, register, vm, epoch });
    expect(report).toEqual({ vmId, epoch: epoch ?? 1, owner, action });
    const [claim] = await register.read(vmId);
    expect(claim?.value).toBe(owner === 'source' ? 'declined' : 'owner');
  });

  it('without a VM only claims are made', async () => {
    const given = await sourceWith(['given', 'owner']);
    expect(await recover({ role: 'source', vmId, register: given, epoch: 1 })).toMatchObject({
      action: 'none',
    });
    expect(await recover({ role: 'destination', vmId, register: given, epoch: 1 })).toMatchObject({
      action: 'none',
    });
    expect(await recover({ role: 'source', vmId, register: memoryRegister() })).toMatchObject({
      action: 'none',
    });
  });

  it('a claim of owner that the dead process had under way, and that arrives first, is the one that counts', async () => {
    const register = memoryRegister();
    const racing: OwnershipRegister = {
      read: (id) => register.read(id),
      claim: async (id, epoch, role, value) => {
        await register.claim(id, epoch, 'destination', 'owner');
        return register.claim(id, epoch, role, value);
      },
    };
    const started: boolean[] = [];
    const vm = {
      start: async ({ run }: { run: boolean }) => void started.push(run),
      discard: async () => {},
    };
    const report = await recover({ role: 'destination', vmId, register: racing, vm, epoch: 1, run: false });
    expect(report).toMatchObject({ action: 'started', owner: 'destination' });
    expect(started).toEqual([false]);
  });
});

describe('how recover fails', () => {
  const broken = (code: 'register' | 'hypervisor', details = {}) => {
    return async () => {
      throw new MigrationError(code, 'broken', details);
    };
  };

  async function failure(action: Promise<unknown>): Promise<Partial<MigrationError>> {
    const error = await action.then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(MigrationError);
    const { code, owner, guest, phase } = error as MigrationError;
    return { code, owner, guest, phase };
  }

  it('the register cannot be read: nothing is known', async () => {
    const register = { ...memoryRegister(), read: broken('register') };
    expect(await failure(recover({ role: 'source', vmId, register }))).toEqual({
      code: 'register',
      owner: 'undecided',
      guest: 'unknown',
      phase: 'handover',
    });
  });

  it('the register cannot be claimed: the VM is the source’s, paused; at the destination undecided', async () => {
    const register = { ...(await sourceWith(['given'])), claim: broken('register') };
    const vm = {
      resume: () => Promise.reject(new Error('never called')),
      detach: async () => {},
      release: broken('hypervisor'),
    };
    const ask = async () => 'declined' as const;
    expect(await failure(recover({ role: 'source', vmId, register, vm, ask }))).toMatchObject({
      code: 'register',
      owner: 'source',
      guest: 'paused',
    });
    expect(await failure(recover({ role: 'destination', vmId, register, epoch: 1 }))).toMatchObject({
      code: 'register',
      owner: 'undecided',
      guest: 'paused',
    });
  });

  it('the hypervisor fails: the owner is known all the same', async () => {
    const dead = {
      resume: broken('hypervisor'),
      detach: async () => {},
      release: broken('hypervisor'),
      start: broken('hypervisor', { guest: 'lost' }),
      discard: () => Promise.reject(new Error('no socket')),
    };
    const common = { vmId, vm: dead, epoch: 1 };
    const own = await sourceWith(['given', 'owner']);
    const back = await sourceWith(['given', 'declined']);
    expect(await failure(recover({ ...common, role: 'source', register: back }))).toMatchObject({
      code: 'hypervisor',
      owner: 'source',
    });
    expect(await failure(recover({ ...common, role: 'source', register: own }))).toMatchObject({
      code: 'hypervisor',
      owner: 'destination',
    });
    expect(await failure(recover({ ...common, role: 'destination', register: own }))).toMatchObject({
      code: 'hypervisor',
      owner: 'destination',
      guest: 'lost',
    });
    expect(await failure(recover({ ...common, role: 'destination', register: back }))).toMatchObject({
      code: 'hypervisor',
      owner: 'source',
    });
  });

  it('nobody can be asked: undecided, paused', async () => {
    const register = await sourceWith(['given']);
    const ask = () => Promise.reject(new Error('no route'));
    expect(await failure(recover({ role: 'source', vmId, register, ask }))).toMatchObject({
      code: 'connection-lost',
      owner: 'undecided',
      guest: 'paused',
    });
  });

  it('the answer contradicts the register: nothing is run or released', async () => {
    const register = await sourceWith(['given', 'reclaimed']);
    const contradicting = await sourceWith(['owner', 'given']);
    await contradicting.claim(vmId, 1, 'return', 'reclaimed');
    const vm = { resume: broken('hypervisor'), detach: async () => {}, release: broken('hypervisor') };
    expect(
      await failure(recover({ role: 'source', vmId, register: contradicting, vm, epoch: 1 })),
    ).toMatchObject({
      code: 'register',
      owner: 'undecided',
    });
    expect(await register.read(vmId)).toHaveLength(2);
  });

  it('is aborted before it reads, or while it asks; nothing was changed', async () => {
    const register = await sourceWith(['given']);
    const signal = AbortSignal.abort();
    expect(await failure(recover({ role: 'source', vmId, register, signal }))).toMatchObject({
      code: 'aborted',
    });
    const controller = new AbortController();
    const ask = () => {
      controller.abort();
      return new Promise<undefined>(() => {});
    };
    const asking = recover({ role: 'source', vmId, register, ask, signal: controller.signal });
    expect(await failure(asking)).toMatchObject({ code: 'aborted', owner: 'undecided', guest: 'paused' });
    expect(await register.read(vmId)).toHaveLength(1);
  });

  it('rejects arguments that are none, and an attempt that it would have to guess', async () => {
    const register = await sourceWith(['given', 'owner']);
    for (const wrong of [{ vmId: '' }, { vmId: 'x'.repeat(256) }, { epoch: 0 }, { epoch: 1.5 }, {}]) {
      const options = { role: 'destination', vmId, register, ...wrong } as const;
      expect(await failure(recover(options))).toMatchObject({ code: 'invalid-argument', owner: 'undecided' });
    }
  });
});
