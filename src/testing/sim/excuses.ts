import type { ErrorCode } from '../../errors.ts';
import { diskModesOf, type Scenario } from './scenario.ts';
import type { VmFault, VmFaultPoint } from './vm-faults.ts';

/** For what the shape of the VM and of its hosts is a reason, whatever else happens. */
export function shapeExcuses(scenario: Scenario): ErrorCode[] {
  const { hosts, policy, vm } = scenario;
  const excuses: ErrorCode[] = [];
  if (hosts?.disk?.capacityBytes !== undefined) excuses.push('disk-full');
  const modes = diskModesOf(scenario);
  const unseen = vm.disks.some(
    ({ id, tap, readOnly }) => tap === 'none' && readOnly !== true && modes.get(id) === 'copy',
  );
  const takesNone = policy.memory === 'none' && hosts?.takesDisksAlone === false;
  if (policy.memory === 'none' && ![...modes.values()].includes('copy')) excuses.push('invalid-argument');
  if ((unseen && policy.copyWhileStunned !== true) || takesNone) excuses.push('unsupported');
  return excuses;
}

/** Whether the hypervisor says that something was done, or is not there, and that is not so: what only an audit can find. */
export function isCheat({ effect }: VmFault): boolean {
  return effect === 'drop';
}

/** At which faults an error of each of these codes is the truth. */
const reasons: Partial<Record<ErrorCode, readonly VmFaultPoint[]>> = {
  'disk-read': ['disk-read', 'disk-extents'],
  'disk-write': ['disk-write', 'disk-flush', 'disk-extents', 'disk-read'],
  'tap-gap': ['tap-write', 'disk-take', 'disk-track'],
  memory: ['memory-batch', 'memory-write'],
  'device-state': ['save', 'load'],
};

/** Whether the world has what an error of this code blames, as far as that can be told from the code. */
export function hasReason(scenario: Scenario, code: ErrorCode, struck: readonly VmFault[]): boolean {
  if (code === 'disk-full' || code === 'unsupported' || code === 'invalid-argument')
    return shapeExcuses(scenario).includes(code);
  if (code === 'audit-mismatch') return struck.some(isCheat);
  const points = reasons[code];
  return (
    points === undefined ||
    struck.some(({ point, effect }) => points.includes(point) || effect === 'break-tap')
  );
}
