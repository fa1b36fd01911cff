/** Goal: a migration goes far behind its guests, and not so far where that leaves it nothing. Method: the rule alone, with a scripted thread. */
import { describe, expect, it } from 'vitest';
import type { Phase } from '../../src/index.ts';
import { behind, farBehind, type ProcessorTime, Yielding } from '../../src/worker/yielding.ts';

const usual = 3;

/** Yielding of a thread that had `ranMs` and waited `waitedMs` more at each look. */
function scripted(tells = true) {
  const had = { ranMs: 100, waitedMs: 100 };
  const set: number[] = [];
  const yielding = new Yielding({
    usual,
    setNiceness: (niceness) => set.push(niceness - usual),
    processorTime: (): ProcessorTime | undefined => (tells ? { ...had } : undefined),
  });
  return {
    set,
    phase: (phase: Phase) => yielding.phase(phase),
    look: (ranMs: number, waitedMs: number) => {
      had.ranMs += ranMs;
      had.waitedMs += waitedMs;
      yielding.look();
    },
  };
}

describe('how far a migration yields', () => {
  it('is far while it copies, and not at all else', () => {
    const { set, phase } = scripted();
    for (const each of ['connect', 'copyDisks', 'copyMemory', 'stun', 'copyMemory', 'done'] as const)
      phase(each);
    expect(set).toEqual([0, farBehind, farBehind, 0, farBehind, 0]);
  });

  it('stays far while that leaves a sixteenth of what could have been run', () => {
    const { set, phase, look } = scripted();
    phase('copyMemory');
    for (let i = 0; i < 10; i++) look(50, 750);
    expect(set).toEqual([farBehind]);
  });

  it('is less far where it does not, until the next phase', () => {
    const { set, phase, look } = scripted();
    phase('copyDisks');
    look(49, 751);
    look(1, 999);
    look(900, 0);
    expect(set).toEqual([farBehind, behind]);
    phase('copyMemory');
    expect(set).toEqual([farBehind, behind, farBehind]);
    look(0, 1000);
    expect(set).toEqual([farBehind, behind, farBehind, behind]);
  });

  it('goes by no more than a thread that wanted little: what it wanted adds up', () => {
    const { set, phase, look } = scripted();
    phase('copyMemory');
    look(0, 200);
    expect(set).toEqual([farBehind]);
    look(0, 60);
    expect(set).toEqual([farBehind, behind]);
  });

  it('is less far from the start where the system does not tell what a thread had', () => {
    const { set, phase, look } = scripted(false);
    phase('copyDisks');
    look(0, 1000);
    expect(set).toEqual([behind]);
  });

  it('looks at nothing while it does not copy', () => {
    const { set, phase, look } = scripted();
    phase('stun');
    look(0, 1000);
    expect(set).toEqual([0]);
  });
});
