/**
 * Goal: the compliance suites find what is wrong. Method: implementations that pass, each broken in one way
 * that its contract forbids; the test that is about it has to fail, and passes with the one that is whole.
 */
import { describe, expect, it } from 'vitest';
import type { MemoryBackend } from '../../../src/backends/memory/index.ts';
import type { TappedDisk } from '../../../src/backends/memory/tapped-disk.ts';
import { MigrationError } from '../../../src/errors.ts';
import type {
  BlockDevice,
  ByteRange,
  Claim,
  Connection,
  DestinationVm,
  DirtyTracker,
  GuestWrite,
  HypervisorBackend,
  OwnershipRegister,
  SourceDisk,
  SourceVm,
  TapHandler,
  Transport,
  VmDescription,
  WriteTimes,
} from '../../../src/interfaces/index.ts';
import { memoryRegister } from '../../../src/registers/index.ts';
import {
  backendCompliance,
  blockDeviceCompliance,
  faultyBlockDevice,
  faultySourceDisk,
  faultySourceVm,
  faultyTransport,
  memorySourceCompliance,
  registerCompliance,
  sourceDiskCompliance,
  type TestFunction,
  transportCompliance,
} from '../../../src/testing/index.ts';
import { memoryLink } from '../../../src/transports/memory-link.ts';
import { delay } from '../../../src/util/promises.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../../support/virtual-environment.ts';
import { withChanges } from '../../support/worlds.ts';
import {
  backendFixture,
  blockDeviceFixture,
  memorySourceFixture,
  sourceDiskFixture,
  type Wrappers,
} from './memory-fixtures.ts';

/**
 * Runs the tests of a suite whose names match, each in a virtual time of its own; resolves to how many there
 * were and failed.
 */
async function runMatching(
  names: RegExp,
  declare: (test: TestFunction, environment: () => VirtualEnvironment) => void,
): Promise<{ readonly ran: number; readonly failed: number }> {
  const tests: (() => Promise<void>)[] = [];
  let environment = createVirtualEnvironment();
  declare(
    (name, run) => names.test(name) && tests.push(run),
    () => environment,
  );
  let failed = 0;
  for (const run of tests) {
    environment = createVirtualEnvironment();
    await environment.run(run()).catch(() => {
      failed += 1;
    });
  }
  return { ran: tests.length, failed };
}

type Mutate<T> = (inner: T, environment: VirtualEnvironment) => T;

/** Each mutant, by what is wrong with it: the test that finds it. */
type Mutants<T> = Readonly<Record<string, readonly [mutate: Mutate<T>, foundBy: RegExp]>>;

function findsAll<T>(
  mutants: Mutants<T>,
  declare: (mutate: (inner: T) => T, test: TestFunction, environment: () => VirtualEnvironment) => void,
): void {
  for (const [name, [mutate, foundBy]] of Object.entries(mutants)) {
    it(name, async () => {
      const ofMutant = await runMatching(foundBy, (test, environment) =>
        declare((inner) => mutate(inner, environment()), test, environment),
      );
      expect(ofMutant.failed).toBeGreaterThan(0);
      const ofOriginal = await runMatching(foundBy, (...parts) => declare((inner) => inner, ...parts));
      expect(ofOriginal).toEqual({ ran: ofMutant.ran, failed: 0 });
    });
  }
}

describe('a register', () => {
  const mutants: Mutants<OwnershipRegister> = {
    'whose last claim wins': [
      () => {
        const claims = new Map<string, Claim>();
        return {
          claim: async (vmId, epoch, role, value) => {
            claims.set(`${vmId} ${epoch} ${role}`, { epoch, role, value });
            return value;
          },
          read: async (vmId) =>
            [...claims].flatMap(([key, claim]) => (key.startsWith(`${vmId} `) ? claim : [])),
        };
      },
      /keeps the first claim/,
    ],
    'that tells a loser that he won': [
      (inner) =>
        withChanges(inner, {
          claim: async (...args) => {
            await inner.claim(...args);
            return args[3];
          },
        }),
      /keeps the first claim/,
    ],
    'that looks first and writes later': [
      (inner) =>
        withChanges(inner, {
          claim: async (vmId, epoch, role, value) => {
            const claims = await inner.read(vmId);
            const standing = claims.find((claim) => claim.epoch === epoch && claim.role === role);
            if (standing !== undefined) return standing.value;
            await inner.claim(vmId, epoch, role, value);
            return value;
          },
        }),
      /many claims at once/,
    ],
    'that knows no case': [
      (inner) => ({
        claim: (vmId, ...rest) => inner.claim(vmId.toLowerCase(), ...rest),
        read: (vmId) => inner.read(vmId.toLowerCase()),
      }),
      /attempts and VMs apart/,
    ],
    'that forgets': [() => memoryRegister(), /opened again/],
    'that takes anything': [
      (inner) =>
        withChanges(inner, {
          claim: async (...args) => inner.claim(...args).catch(() => args[3]),
        }),
      /no claim/,
    ],
  };
  findsAll(mutants, (mutate, test) => {
    registerCompliance({
      test,
      create: async () => {
        const register = memoryRegister();
        const handle = async () => mutate(register);
        return { register: await handle(), reopen: handle, close: async () => {} };
      },
    });
  });
});

describe('a transport', () => {
  const connections = (change: (inner: Connection) => Partial<Connection>) => (inner: Transport) => {
    const changed = (connection: Connection) => withChanges(connection, change(connection));
    return withChanges(inner, {
      open: (options) => inner.open(options).then(changed),
      accept: (options) => inner.accept(options).then(changed),
    });
  };
  const mutants: Mutants<Transport> = {
    'that damages a byte': [
      (inner) =>
        faultyTransport(inner, [{ on: 'connection', nth: 'every', do: 'flip', way: 'sent', atByte: 99_999 }]),
      /carries bytes in order/,
    ],
    'that never holds back': [
      connections((inner) => ({
        send: async (chunks) => {
          inner.send(chunks).catch(() => {});
        },
      })),
      /holds the sender back/,
    ],
    'that drops what close() should bring over': [
      connections((inner) => ({
        close: async () => {
          inner.abort();
          await inner.close();
        },
      })),
      /close\(\) brings over/,
    ],
    'that ends where it broke': [
      connections((inner) => ({
        receive: async function* () {
          try {
            yield* inner.receive();
          } catch {}
        },
      })),
      /lost at both ends/,
    ],
    'that forgets why it was aborted': [
      connections((inner) => ({ abort: () => inner.abort() })),
      /gives its reason/,
    ],
    'that takes no signal': [
      (inner) =>
        withChanges(inner, { open: ({ path } = {}) => inner.open(path === undefined ? {} : { path }) }),
      /open\(\) can be aborted/,
    ],
    'that loses a connection to an accept() that was aborted': [
      (inner) =>
        withChanges(inner, {
          accept: ({ signal } = {}) => {
            const accepted = inner.accept();
            return new Promise((resolve, reject) => {
              const aborted = () => reject(new MigrationError('aborted', 'aborted'));
              if (signal?.aborted) aborted();
              signal?.addEventListener('abort', aborted);
              accepted.then(resolve, reject);
            });
          },
        }),
      /takes no connection with it/,
    ],
    'that goes on accepting after close()': [
      (inner) => withChanges(inner, { close: async () => {} }),
      /close\(\) (refuses|rejects)/,
    ],
    'that has paths which it has not': [(inner) => withChanges(inner, { paths: 2 }), /every path/],
    'that says that it cannot, and can': [
      (inner) => withChanges(inner, { capabilities: { open: true, accept: false } }),
      /unsupported/,
    ],
  };
  findsAll(mutants, (mutate, test, environment) => {
    const create = async () => {
      const link = memoryLink({ rttMs: 20, rateMbit: 200, environment: environment() });
      const [source, destination] = [mutate(link.source), mutate(link.destination)];
      return {
        source,
        destination,
        cut: link.cut,
        settle: () => delay(environment(), 5000),
        close: async () => {
          await Promise.all([link.source.close(), link.destination.close()]);
        },
      };
    };
    transportCompliance({ test, create, createBreakable: create });
  });
});

describe('a disk', () => {
  const mutants: Mutants<BlockDevice> = {
    'that loses a write': [
      (inner) => faultyBlockDevice(inner, [{ on: 'write', nth: 20, do: 'drop' }]),
      /agree with a plain buffer/,
    ],
    'that loses a zeroing': [
      (inner) => faultyBlockDevice(inner, [{ on: 'writeZeroes', nth: 5, do: 'drop' }]),
      /agree with a plain buffer/,
    ],
    'that reads a bit wrong': [
      (inner) => faultyBlockDevice(inner, [{ on: 'read', nth: 30, do: 'flip', atByte: 7 }]),
      /agree with a plain buffer/,
    ],
    'that writes whole blocks only': [
      (inner) =>
        withChanges(inner, {
          write: (offset, content, options) => inner.write(offset - (offset % 512), content, options),
        }),
      /agree with a plain buffer/,
    ],
    'that calls data zero': [
      (inner) => withChanges(inner, { extents: async (offset, length) => [{ offset, length, zero: true }] }),
      /never call data zero/,
    ],
    'whose extents have a gap': [
      (inner) =>
        withChanges(inner, {
          extents: async (offset, length, options) =>
            (await inner.extents(offset, length, options)).slice(0, -1),
        }),
      /extents cover/,
    ],
    'that discards more than it was told': [
      (inner) =>
        withChanges(inner, {
          discard: (offset, length, options) => inner.writeZeroes(offset, length + 1, options),
        }),
      /its neighbours/,
    ],
    'that reads into a buffer which it uses again': [
      (inner) => {
        const buffer = new Uint8Array(1024 * 1024);
        return withChanges(inner, {
          read: async (offset, length, options) => {
            let at = 0;
            for (const chunk of await inner.read(offset, length, options)) {
              buffer.set(chunk, at);
              at += chunk.byteLength;
            }
            return [buffer.subarray(0, length)];
          },
        });
      },
      /many writes and reads at once/,
    ],
    'that answers before it has written': [
      (inner, environment) =>
        withChanges(inner, {
          write: async (offset, content, options) => {
            const written = content.map((chunk) => chunk.slice());
            environment.setTimer(5, () => void inner.write(offset, written, options).catch(() => {}));
          },
        }),
      /a write that follows another shows/,
    ],
    'that takes no signal': [
      (inner) => withChanges(inner, { write: (offset, content) => inner.write(offset, content) }),
      /takes a signal/,
    ],
    'that writes although it was aborted': [
      (inner) =>
        withChanges(inner, {
          writeZeroes: async (offset, length, options) => {
            await inner.writeZeroes(offset, length);
            if (options?.signal?.aborted) throw new MigrationError('aborted', 'aborted');
          },
        }),
      /writes nothing/,
    ],
    'that reads beyond its end': [
      (inner) =>
        withChanges(inner, {
          read: (offset, length, options) =>
            offset + length > inner.sizeBytes
              ? Promise.resolve([new Uint8Array(length)])
              : inner.read(offset, length, options),
        }),
      /does not lie on it/,
    ],
    'with blocks that no disk has': [(inner) => withChanges(inner, { blockBytes: 520 }), /describes itself/],
  };
  findsAll(mutants, (mutate, test, environment) => {
    blockDeviceCompliance({ test, create: () => blockDeviceFixture(environment(), { device: mutate }) });
  });
});

describe('a tap', () => {
  const handlers = (change: (handler: TapHandler) => Partial<TapHandler>) => (inner: SourceDisk) =>
    withChanges(inner, {
      tap: (handler, options) =>
        inner.tap(
          {
            write: (write) => handler.write(write),
            invalidate: (range) => handler.invalidate(range),
            broken: (error) => handler.broken(error),
            ...change(handler),
          },
          options,
        ),
    });
  const shared = new Uint8Array(8192);
  const mutants: Mutants<SourceDisk> = {
    'that loses a write': [
      (inner) => faultySourceDisk(inner, [{ on: 'guest-write', nth: 2, do: 'drop' }]),
      /gets every write/,
    ],
    'that shows a write without content': [
      handlers((handler) => ({ write: (write) => handler.write({ ...write, content: 'zero' }) })),
      /as it was written/,
    ],
    'that does not let the guest wait': [
      handlers((handler) => ({
        write: (write) => {
          void handler.write(write);
        },
      })),
      /before the guest is told/,
    ],
    'that shows writes late': [
      handlers((handler) => {
        let before: GuestWrite | undefined;
        return {
          write: async (write) => {
            const now = before;
            before = write;
            if (now !== undefined) await handler.write(now);
          },
        };
      }),
      /gets every write/,
    ],
    'that uses the buffer of a write again': [
      handlers((handler) => ({
        write: (write) => {
          if (write.content === 'zero' || write.length > shared.length) return handler.write(write);
          shared.set(write.content[0] ?? []);
          return handler.write({ ...write, content: [shared.subarray(0, write.length)] });
        },
      })),
      /does not change until it is released/,
    ],
    'that mixes up overlapping writes': [
      (inner, environment) => {
        let writes = 0;
        return handlers((handler) => ({
          write: async (write) => {
            writes += 1;
            if (writes % 2 === 1) await delay(environment, 10);
            await handler.write(write);
          },
        }))(inner);
      },
      /order at the tap is that of the medium/,
    ],
    'that is set twice': [
      (inner) =>
        withChanges(inner, {
          tap: (handler, options) =>
            inner.tap(handler, options).catch(() => ({ finish: async () => {}, remove: async () => {} })),
        }),
      /one tap at a time/,
    ],
    'that is set although it was aborted': [
      (inner) => withChanges(inner, { tap: (handler) => inner.tap(handler) }),
      /aborted signal none is set/,
    ],
    'that cannot be taken away': [
      (inner) =>
        withChanges(inner, {
          tap: async (handler, options) =>
            withChanges(await inner.tap(handler, options), { remove: async () => {} }),
        }),
      /removed, it gets nothing more/,
    ],
    'that finishes whenever it is asked': [
      (inner) =>
        withChanges(inner, {
          tap: async (handler, options) =>
            withChanges(await inner.tap(handler, options), { finish: async () => {} }),
        }),
      /finish\(\) is refused/,
    ],
    'that is broken and does not say so': [handlers(() => ({ broken: () => {} })), /says so once/],
    'that says twice that it is broken': [
      handlers((handler) => ({
        broken: (error) => {
          handler.broken(error);
          handler.broken(error);
        },
      })),
      /says so once/,
    ],
    'that says nothing of a torn write': [handlers(() => ({ invalidate: () => {} })), /a write that failed/],
    'that says nothing of a discard': [
      handlers((handler) => ({
        invalidate: () => {},
        write: (write) => (write.content === 'zero' ? write.release() : handler.write(write)),
      })),
      /of a discard/,
    ],
    'that takes a discard for zeros': [
      handlers((handler) => ({
        invalidate: (range) => void handler.write({ ...range, content: 'zero', release: () => {} }),
      })),
      /of a discard/,
    ],
    'of a disk that says it has none': [
      (inner) => withChanges(inner, { tapCapability: 'none' }),
      /one tap at a time/,
    ],
  };
  findsAll(mutants, (mutate, test, environment) => {
    sourceDiskCompliance({ test, create: () => sourceDiskFixture(environment(), { disk: mutate }) });
  });
});

describe('a dirty log', () => {
  const trackers =
    (change: (inner: DirtyTracker, disk: SourceDisk) => Partial<DirtyTracker>) => (inner: SourceDisk) =>
      withChanges(inner, {
        track: async (options) => {
          const tracker = await inner.track(options);
          return withChanges(tracker, change(tracker, inner));
        },
      });
  const mutants: Mutants<SourceDisk> = {
    'that loses a range': [
      (inner) => faultySourceDisk(inner, [{ on: 'dirty-range', nth: 3, do: 'drop' }]),
      /every write that the guest was told of/,
    ],
    'that tells only of the beginning of a write': [
      trackers((inner) => ({
        take: async (options) =>
          (await inner.take(options)).map(({ offset, length }) => ({
            offset,
            length: Math.min(length, 512),
          })),
      })),
      /every write that the guest was told of/,
    ],
    'that reaches beyond the disk': [
      trackers((inner, disk) => ({
        take: async (options) =>
          (await inner.take(options)).map(({ offset }) => ({ offset, length: disk.sizeBytes })),
      })),
      /every write that the guest was told of/,
    ],
    'that keeps its marks': [
      trackers((inner) => {
        const all: ByteRange[] = [];
        return {
          take: async (options) => {
            all.push(...(await inner.take(options)));
            return [...all];
          },
        };
      }),
      /not in the next take/,
    ],
    'that clears marks which it has not told': [
      (inner, environment) =>
        trackers((tracker) => ({
          take: async (options) => {
            const taken = await tracker.take(options);
            await delay(environment, 3);
            await tracker.take(options);
            return taken;
          },
        }))(inner),
      /falls between two takes/,
    ],
    'that loses what one take brings with the guest stunned': [
      (inner) => {
        let takes = 0;
        return trackers((tracker) => ({
          take: async (options) => {
            const taken = await tracker.take(options);
            takes += 1;
            return takes === 2 ? [] : taken;
          },
        }))(inner);
      },
      /each time that it is stunned/,
    ],
    'that leaves out what failed': [
      (inner) => {
        const { disk } = inner as TappedDisk;
        let failing = false;
        const fail = disk.failNextWrite.bind(disk);
        disk.failNextWrite = (tornBytes) => {
          failing = true;
          fail(tornBytes);
        };
        return trackers((tracker) => ({
          take: async (options) => {
            const taken = await tracker.take(options);
            return failing ? [] : taken;
          },
        }))(inner);
      },
      /zeroes, discards or fails to write/,
    ],
    'that is kept twice': [
      (inner) => {
        const tracker = inner.track();
        return withChanges(inner, { track: () => tracker });
      },
      /one dirty log at a time|two dirty logs at once/,
    ],
    'that is kept although it was aborted': [
      (inner) => withChanges(inner, { track: () => inner.track() }),
      /aborted signal no dirty log/,
    ],
    'that loses what an aborted take would have told': [
      trackers((inner) => ({
        take: async (options) => {
          const taken = await inner.take();
          if (options?.signal?.aborted) throw new MigrationError('aborted', 'aborted');
          return taken;
        },
      })),
      /aborted before it began loses nothing/,
    ],
    'that cannot be taken away': [trackers(() => ({ remove: async () => {} })), /dirty log that was removed/],
    'that tells of nothing once it was removed': [
      trackers((inner) => ({ take: (options) => inner.take(options).catch(() => []) })),
      /dirty log that was removed/,
    ],
    'that lost track and does not say so': [
      trackers((inner) => ({
        take: (options) =>
          inner
            .take(options)
            .catch((error: MigrationError) => (error.code === 'tap-gap' ? [] : Promise.reject(error))),
      })),
      /lost track says so/,
    ],
    'that lost track and says so once': [
      trackers((inner) => {
        let said = false;
        return {
          take: (options) =>
            inner.take(options).catch((error: MigrationError) => {
              const first = !said;
              said = true;
              return first ? Promise.reject(error) : [];
            }),
        };
      }),
      /lost track says so/,
    ],
    'of a disk that says it has none': [
      (inner) => withChanges(inner, { tapCapability: 'none' }),
      /one dirty log at a time/,
    ],
    'of a disk that says it shows each write': [
      (inner) => withChanges(inner, { tapCapability: 'ordered' }),
      /one tap at a time/,
    ],
  };
  findsAll(mutants, (mutate, test, environment) => {
    const create = () => sourceDiskFixture(environment(), { tap: 'extents', disk: mutate });
    sourceDiskCompliance({ test, create });
  });
});

describe('a disk whose writes cannot be seen', () => {
  const nothing = async () => {};
  const mutants: Mutants<SourceDisk> = {
    'that sets a tap which sees nothing': [
      (inner) => withChanges(inner, { tap: async () => ({ finish: nothing, remove: nothing }) }),
      /one tap at a time/,
    ],
    'that keeps an empty dirty log': [
      (inner) => withChanges(inner, { track: async () => ({ take: async () => [], remove: nothing }) }),
      /one dirty log at a time/,
    ],
    'with a tap that nobody knows': [
      (inner) => withChanges(inner, { tapCapability: 'some' as never }),
      /describes itself/,
    ],
  };
  findsAll(mutants, (mutate, test, environment) => {
    sourceDiskCompliance({
      test,
      create: () => sourceDiskFixture(environment(), { tap: 'none', disk: mutate }),
    });
  });
});

describe('what a disk tells of writes', () => {
  const times =
    (change: (told: WriteTimes, call: number) => WriteTimes | undefined) => (inner: SourceDisk) => {
      let calls = 0;
      return withChanges(inner, {
        writeTimes: async (options) => {
          const told = await inner.writeTimes(options);
          calls += 1;
          return told && change(told, calls);
        },
      });
    };
  const mutants: Mutants<SourceDisk> = {
    'that never changes': [times(() => ({ writes: 7, totalMs: 7 })), /how many writes there were/],
    'that begins anew': [
      times(({ writes, totalMs }, call) => (call > 2 ? { writes: 0, totalMs } : { writes, totalMs })),
      /never less than it was/,
    ],
    'that counts time since some other moment each time': [
      times(({ writes, totalMs }, call) => ({ writes, totalMs: totalMs / call ** 3 })),
      /never less than it was/,
    ],
    'that is missing now and then': [
      times((told, call) => (call % 2 === 0 ? undefined : told)),
      /how many writes there were/,
    ],
    'that appears in the middle': [times((told, call) => (call === 1 ? undefined : told)), /of another kind/],
    'that takes no signal': [
      (inner) => withChanges(inner, { writeTimes: () => inner.writeTimes() }),
      /how many writes there were/,
    ],
  };
  findsAll(mutants, (mutate, test, environment) => {
    sourceDiskCompliance({ test, create: () => sourceDiskFixture(environment(), { disk: mutate }) });
  });
});

describe('the memory of a VM', () => {
  const memory = (change: (inner: SourceVm['memory']) => Partial<SourceVm['memory']>) => (vm: SourceVm) =>
    withChanges(vm, { memory: withChanges(vm.memory, change(vm.memory)) });
  const mutants: Mutants<SourceVm> = {
    'that loses a batch': [
      (vm) => faultySourceVm(vm, { memory: [{ on: 'batch', nth: 2, do: 'drop' }] }),
      /first round brings every page/,
    ],
    'that loses a batch of a later round': [
      (vm) => faultySourceVm(vm, { memory: [{ on: 'batch', nth: { from: 4 }, do: 'drop' }] }),
      /bring what is there/,
    ],
    'that damages a page': [
      (vm) => faultySourceVm(vm, { memory: [{ on: 'batch', nth: { from: 4 }, do: 'flip', atByte: 3 }] }),
      /bring what is there/,
    ],
    'that uses the buffer of a batch again before it is given back': [
      memory((inner) => ({
        round: async function* (options) {
          for await (const batch of inner.round(options)) {
            batch.release();
            yield { runs: batch.runs, release: () => {} };
          }
        },
      })),
      /does not change until it is released/,
    ],
    'that loses what an unfinished round had taken': [
      memory((inner) => ({
        round: async function* (options) {
          const batches = [];
          for await (const batch of inner.round(options)) batches.push(batch);
          yield* batches;
        },
      })),
      /ended by return\(\) loses no page/,
    ],
    'that reads two rounds at once': [
      memory((inner) => {
        let reading = false;
        return {
          round: async function* (options) {
            if (reading) return;
            reading = true;
            try {
              yield* inner.round(options);
            } finally {
              reading = false;
            }
          },
        };
      }),
      /one round at a time/,
    ],
    'that takes no signal': [memory((inner) => ({ round: () => inner.round() })), /by its signal/],
    'that does not begin anew after stop()': [memory(() => ({ stop: async () => {} })), /after stop\(\)/],
    'that brings a page twice in a batch': [
      memory((inner) => ({
        round: async function* (options) {
          for await (const batch of inner.round(options)) {
            yield { runs: [...batch.runs, ...batch.runs.slice(0, 1)], release: () => batch.release() };
          }
        },
      })),
      /first round brings every page/,
    ],
    'that is never clean': [memory(() => ({ dirtyBytes: () => 4096 })), /stunned and clean/],
    'that is not what was described': [
      memory((inner) => ({ regions: inner.regions.map((region) => ({ ...region, name: 'ram' })) })),
      /describes its regions/,
    ],
  };
  findsAll(mutants, (mutate, test, environment) => {
    memorySourceCompliance({ test, create: () => memorySourceFixture(environment(), { sourceVm: mutate }) });
  });
});

describe('a VM at the source', () => {
  const mutants: Mutants<SourceVm> = {
    'that says that it runs when it is stunned': [
      (vm) => withChanges(vm, { runState: () => 'running' }),
      /stun\(\) pauses the guest/,
    ],
    'that is resumed only once': [
      (vm) =>
        withChanges(vm, {
          resume: () =>
            vm.runState() === 'running'
              ? Promise.reject(new MigrationError('invalid-state', 'it runs'))
              : vm.resume(),
        }),
      /resumed and detached to no effect/,
    ],
    'that runs on when it is stunned for its disks alone': [
      (vm) =>
        withChanges(vm, {
          stun: async (options) => {
            await vm.stun(options);
            if (options?.memory === 'none') await vm.resume();
          },
        }),
      /for its disks alone/,
    ],
    'whose first round is no whole one after it was stunned for its disks alone': [
      (vm) => {
        let read = false;
        return withChanges(vm, {
          stun: async (options) => {
            await vm.stun(options);
            // As if the stun had read it.
            if (options?.memory === 'none' && !read)
              for await (const batch of vm.memory.round()) batch.release();
            read = true;
          },
        });
      },
      /for its disks alone/,
    ],
    'that is stunned although that was aborted': [
      (vm) => withChanges(vm, { stun: () => vm.stun() }),
      /stun\(\) that is aborted/,
    ],
    'that saves state of a running guest': [
      (vm) =>
        withChanges(vm, {
          saveDeviceState: async function* (options) {
            if (vm.runState() === 'running') yield Uint8Array.of(1);
            else yield* vm.saveDeviceState(options);
          },
        }),
      /only while stunned/,
    ],
    'that is sealed in any state': [
      (vm) => withChanges(vm, { seal: () => vm.seal().catch(() => {}) }),
      /seal\(\) needs/,
    ],
    'that is throttled beyond its limits': [
      (vm) => withChanges(vm, { setThrottle: async () => {} }),
      /throttled/,
    ],
    'that cannot be throttled and does not say so when it is': [
      (vm) =>
        withChanges(vm, { capabilities: { ...vm.capabilities, throttle: false, throttleAlone: false } }),
      /throttled, or says that it cannot/,
    ],
    'that is measured for any time': [
      (vm) => withChanges(vm, { measure: () => vm.measure({ durationMs: 50 }) }),
      /is measured, or says that it cannot/,
    ],
    'that takes pages from the rounds when it is measured': [
      (vm) =>
        withChanges(vm, {
          measure: async (call) => {
            for await (const batch of vm.memory.round()) batch.release();
            return vm.measure(call);
          },
        }),
      /is measured, or says that it cannot/,
    ],
    'that cannot be measured and does not say so when it is': [
      (vm) => withChanges(vm, { capabilities: { ...vm.capabilities, measure: false } }),
      /is measured, or says that it cannot/,
    ],
    'that keeps its taps when it is let go of': [
      (vm) => withChanges(vm, { detach: async () => {} }),
      /detach\(\) takes everything away/,
    ],
    'that runs a paused guest': [
      (vm) =>
        withChanges(vm, {
          runState: (() => {
            let resumed = false;
            vm.resume = new Proxy(vm.resume, {
              apply: (target, self, args: []) => {
                resumed = true;
                return Reflect.apply(target, self, args);
              },
            });
            return () => (resumed ? 'running' : vm.runState());
          })(),
        }),
      /paused from the start stays so/,
    ],
    'that takes its own stun for an unexpected stop': [
      (vm) => {
        const listeners = new Set<Parameters<SourceVm['onUnexpectedStop']>[0]>();
        return withChanges(vm, {
          onUnexpectedStop: (listener) => {
            listeners.add(listener);
            return () => listeners.delete(listener);
          },
          stun: async (options) => {
            await vm.stun(options);
            for (const listener of listeners) listener({ kind: 'paused', reason: 'stunned' });
          },
        });
      },
      /no unexpected stop/,
    ],
    'that tells those who do not listen any more': [
      (vm) =>
        withChanges(vm, {
          onUnexpectedStop: (listener) => {
            vm.onUnexpectedStop(listener);
            return () => {};
          },
        }),
      /nobody here asked for/,
    ],
    'that tells a stop twice': [
      (vm) =>
        withChanges(vm, {
          onUnexpectedStop: (listener) =>
            vm.onUnexpectedStop((stop) => {
              listener(stop);
              listener(stop);
            }),
        }),
      /nobody here asked for/,
    ],
  };
  findsAll(mutants, (mutate, test, environment) => {
    backendCompliance({ test, create: () => backendFixture(environment(), { sourceVm: mutate }) });
  });
});

describe('a backend', () => {
  const prepared =
    (change: (inner: DestinationVm) => Partial<DestinationVm>) =>
    (inner: HypervisorBackend): HypervisorBackend =>
      withChanges(inner, {
        prepare: async (description, options) => {
          const vm = await inner.prepare(description, options);
          return withChanges(vm, change(vm));
        },
      });
  /** One that refuses disks alone, for what it finds wrong with them. */
  const refusing = (
    inner: HypervisorBackend,
    refusal: (description: VmDescription) => MigrationError | undefined,
  ): HypervisorBackend =>
    withChanges(inner, {
      prepare: async (description, options) => {
        const error = options?.memory === 'none' ? refusal(description) : undefined;
        if (error !== undefined) throw error;
        return inner.prepare(description, options);
      },
    });
  const mutants: Mutants<HypervisorBackend> = {
    'that takes other machines': [
      (inner) =>
        withChanges(inner, {
          prepare: (description, options) =>
            inner.prepare({ ...description, machine: 'longhaul-memory' }, options),
        }),
      /refuses each difference/,
    ],
    'that names only one difference': [
      (inner) =>
        withChanges(inner, {
          prepare: (description, options) =>
            inner.prepare(description, options).catch((error: MigrationError) => {
              throw new MigrationError(error.code, error.message.split(';')[0] ?? '');
            }),
        }),
      /names all of them/,
    ],
    'that prepares although it was aborted': [
      (inner) => withChanges(inner, { prepare: (description) => inner.prepare(description) }),
      /aborted signal leaves nothing/,
    ],
    'that loads half a device state': [
      prepared((vm) => ({
        loadDeviceState: (state, options) => vm.loadDeviceState(state, options).catch(() => {}),
      })),
      /device state that is cut short/,
    ],
    'that starts what was never loaded': [
      prepared((vm) => ({ start: (options) => vm.start(options).catch(() => {}) })),
      /not started before/,
    ],
    'that runs what should stay paused': [
      prepared((vm) => ({ start: () => vm.start({ run: true }) })),
      /run: false/,
    ],
    'that leaves paused what should run': [
      prepared((vm) => ({ start: () => vm.start({ run: false }) })),
      /moved, the guest runs there/,
    ],
    'that writes pages elsewhere': [
      prepared((vm) => ({
        memory: withChanges(vm.memory, {
          write: (runs, options) =>
            vm.memory.write(
              runs.map((run) => (run.offset === 0 ? { ...run, content: 'zero' } : run)),
              options,
            ),
        }),
      })),
      /moved, the guest runs there/,
    ],
    'that takes pages which do not fit': [
      prepared((vm) => ({
        memory: withChanges(vm.memory, {
          write: (runs, options) => vm.memory.write(runs, options).catch(() => {}),
        }),
      })),
      /takes whole pages/,
    ],
    'that says it can be filled again, and cannot': [
      prepared(() => ({ refill: async () => {} })),
      /is filled again/,
    ],
    'that cannot be filled again, and does not say so': [
      prepared(() => ({ capabilities: { refill: false, disksAlone: true, auditMemory: true } })),
      /is filled again/,
    ],
    'that hands over what it did not keep': [
      prepared((vm) => ({
        handOver: async () => {
          const [disk] = vm.disks;
          await disk?.write(100, [Uint8Array.of(1, 2, 3)]);
          await disk?.flush();
          await vm.handOver();
        },
      })),
      /handed over as they were/,
    ],
    'that takes back what was handed over': [
      (inner) => {
        const backend = inner as MemoryBackend;
        return prepared((vm) => ({
          discard: async () => {
            await vm.discard();
            for (const disk of backend.disks) disk.free();
          },
        }))(inner);
      },
      /handed over as they were/,
    ],
    'that hands over twice': [
      prepared((vm) => ({ handOver: () => vm.handOver().catch(() => {}) })),
      /handed over as they were/,
    ],
    'that is written after it was handed over': [
      prepared((vm) => ({
        disks: vm.disks.map((disk) =>
          withChanges(disk, { write: (...args) => disk.write(...args).catch(() => {}) }),
        ),
      })),
      /handed over as they were/,
    ],
    'that cannot take disks alone, and does not say so': [
      (inner) => refusing(inner, () => new MigrationError('unsupported', 'whole VMs only')),
      /handed over as they were/,
    ],
    'that says it cannot take disks alone, and does': [
      prepared(() => ({ capabilities: { refill: true, disksAlone: false, auditMemory: true } })),
      /handed over as they were/,
    ],
    'that compares the machine where disks come alone': [
      (inner) =>
        refusing(inner, ({ machine }) =>
          machine === 'another-machine' ? new MigrationError('incompatible', machine) : undefined,
        ),
      /of any machine/,
    ],
    'that takes disks alone of any size': [
      (inner) =>
        withChanges(inner, {
          prepare: (description, options) =>
            inner
              .prepare(description, options)
              .catch(() => inner.prepare({ ...description, disks: [] }, options)),
        }),
      /of any machine/,
    ],
    'that starts something where disks came alone': [
      prepared(() => ({ start: async () => {} })),
      /nothing to start/,
    ],
    'that takes what it has no room for': [
      (inner) =>
        withChanges(inner, {
          prepare: async (description, options) => {
            const vm = await inner.prepare(
              { ...description, disks: description.disks.map((disk) => ({ ...disk, allocatedBytes: 0 })) },
              options,
            );
            return withChanges(vm, {
              disks: vm.disks.map((disk) => withChanges(disk, { write: async () => {} })),
            });
          },
        }),
      /without room/,
    ],
    'that goes on after it was discarded': [
      prepared((vm) => ({ discard: async () => {}, loadDeviceState: async () => {}, memory: vm.memory })),
      /discarded takes nothing more/,
    ],
  };
  findsAll(mutants, (mutate, test, environment) => {
    const wrappers: Wrappers = { backend: mutate };
    backendCompliance({ test, create: () => backendFixture(environment(), wrappers) });
  });
});
