import type { HypervisorBackend, SourceVm } from '../../interfaces/hypervisor.ts';
import type { OwnershipRegister } from '../../interfaces/register.ts';
import type { Transport } from '../../interfaces/transport.ts';

/** The calls that an engine makes of its plug points and of its caller's hooks, by name. Each is a point at which its process can die. */
export type StepName =
  | 'open'
  | 'accept'
  | 'send'
  | 'close'
  | 'abort'
  | 'claim'
  | 'register-read'
  | 'measure'
  | 'throttle'
  | 'stun'
  | 'save'
  | 'seal'
  | 'resume'
  | 'release'
  | 'detach'
  | 'round'
  | 'rounds-stop'
  | 'disk-read'
  | 'disk-extents'
  | 'disk-flush'
  | 'disk-write'
  | 'tap'
  | 'tap-finish'
  | 'tap-remove'
  | 'track'
  | 'take'
  | 'track-remove'
  | 'prepare'
  | 'memory-write'
  | 'load'
  | 'refill'
  | 'before-start'
  | 'start'
  | 'after-start'
  | 'hand-over'
  | 'discard';

/** Told before each step is taken. */
export type OnStep = (step: StepName) => void;

type Steps<T> = { readonly [K in keyof T]?: StepName };
type Parts<T> = { readonly [K in keyof T]?: (part: never) => unknown };

/**
 * The object itself, but that the methods named in `steps` tell of each call first, and that `parts` wrap what a property holds, or what a
 * method's promise resolves to.
 */
function stepping<T extends object>(target: T, step: OnStep, steps: Steps<T>, parts: Parts<T> = {}): T {
  const made = new Map<PropertyKey, unknown>();
  const make = (key: keyof T & string): unknown => {
    const value: unknown = target[key];
    const part = parts[key] as ((part: unknown) => unknown) | undefined;
    if (typeof value !== 'function') return part === undefined ? value : part(value);
    const name = steps[key];
    return (...args: unknown[]) => {
      if (name !== undefined) step(name);
      const result: unknown = value.apply(target, args);
      return part === undefined ? result : (result as Promise<unknown>).then(part);
    };
  };
  return new Proxy(target, {
    get(_, key) {
      const property = key as keyof T & string;
      const value: unknown = target[property];
      if (typeof value !== 'function' && parts[property] === undefined) return value;
      if (!made.has(key)) made.set(key, make(property));
      return made.get(key);
    },
  });
}

/** A transport, and the connections that come of it. */
export function steppingTransport(transport: Transport, step: OnStep): Transport {
  const connection = (one: Awaited<ReturnType<Transport['open']>>) =>
    stepping(one, step, { send: 'send', close: 'close', abort: 'abort' });
  return stepping(
    transport,
    step,
    { open: 'open', accept: 'accept' },
    { open: connection, accept: connection },
  );
}

export function steppingRegister(register: OwnershipRegister, step: OnStep): OwnershipRegister {
  return stepping(register, step, { claim: 'claim', read: 'register-read' });
}

/** A VM at the source, with its memory, disks and taps. */
export function steppingSourceVm(vm: SourceVm, step: OnStep): SourceVm {
  const memory = (one: SourceVm['memory']) => stepping(one, step, { round: 'round', stop: 'rounds-stop' });
  type Disk = SourceVm['disks'][number];
  const tap = (one: Awaited<ReturnType<Disk['tap']>>) =>
    stepping(one, step, { finish: 'tap-finish', remove: 'tap-remove' });
  const tracker = (one: Awaited<ReturnType<Disk['track']>>) =>
    stepping(one, step, { take: 'take', remove: 'track-remove' });
  const disk = (one: Disk) =>
    stepping(
      one,
      step,
      { read: 'disk-read', extents: 'disk-extents', flush: 'disk-flush', tap: 'tap', track: 'track' },
      { tap, track: tracker },
    );
  return stepping(
    vm,
    step,
    {
      measure: 'measure',
      setThrottle: 'throttle',
      stun: 'stun',
      saveDeviceState: 'save',
      seal: 'seal',
      resume: 'resume',
      release: 'release',
      detach: 'detach',
    },
    { memory, disks: (disks: SourceVm['disks']) => disks.map(disk) },
  );
}

type DestinationVm = Awaited<ReturnType<HypervisorBackend['prepare']>>;

/** A hypervisor at the destination, and what it prepares, which `prepared` is told of. */
export function steppingBackend(
  backend: HypervisorBackend,
  step: OnStep,
  prepared: (vm: DestinationVm) => void,
): HypervisorBackend {
  const made = (vm: DestinationVm) => {
    const stepped = steppingDestinationVm(vm, step);
    prepared(stepped);
    return stepped;
  };
  return stepping(backend, step, { prepare: 'prepare' }, { prepare: made });
}

export function steppingDestinationVm(vm: DestinationVm, step: OnStep): DestinationVm {
  const memory = (one: DestinationVm['memory']) => stepping(one, step, { write: 'memory-write' });
  type Disk = DestinationVm['disks'][number];
  const disk = (one: Disk) =>
    stepping(one, step, {
      read: 'disk-read',
      extents: 'disk-extents',
      flush: 'disk-flush',
      write: 'disk-write',
      writeZeroes: 'disk-write',
      discard: 'disk-write',
    });
  return stepping(
    vm,
    step,
    { loadDeviceState: 'load', refill: 'refill', start: 'start', handOver: 'hand-over', discard: 'discard' },
    { memory, disks: (disks: DestinationVm['disks']) => disks.map(disk) },
  );
}
