/**
 * Goal: figures that a person reads at a glance, and text from elsewhere that cannot steer a terminal.
 * Method: tables, and properties.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { formatBytes, formatMs, printable } from '../../src/cli/units.ts';

describe('units', () => {
  test.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1.00 KiB'],
    [1024 ** 2 - 1, '1.00 MiB'],
    [48.25 * 1024 ** 2, '48.3 MiB'],
    [120 * 1024 ** 2, '120 MiB'],
    [1023.6 * 1024 ** 2, '1.00 GiB'],
    [2 ** 53 - 1, '8.00 PiB'],
  ])('%d bytes are %s', (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });

  test.each([
    [0, '0 ms'],
    [0.04, '0.0 ms'],
    [2.14, '2.1 ms'],
    [9.96, '10 ms'],
    [999.4, '999 ms'],
    [999.6, '1.00 s'],
    [7420, '7.42 s'],
    [59_960, '1 min 0 s'],
    [125_000, '2 min 5 s'],
    [3_599_600, '1 h 0 min'],
    [11_520_000, '3 h 12 min'],
  ])('%d ms are %s', (ms, text) => {
    expect(formatMs(ms)).toBe(text);
  });

  test('no figure is wider than its column', () => {
    fc.assert(
      fc.property(fc.double({ min: 0, max: 2 ** 53, noNaN: true }), (value) => {
        expect(formatBytes(value).length).toBeLessThanOrEqual('1023 KiB'.length);
        expect(formatMs(value % 3.59e8).length).toBeLessThanOrEqual('59 min 59 s'.length);
      }),
    );
  });
});

describe('text from elsewhere', () => {
  test('stays readable', () => {
    expect(printable('disque-système: échec\n  deuxième ligne')).toBe('disque-système: échec deuxième ligne');
  });

  test('has no control character left, whatever was in it', () => {
    expect(printable('\u001b[2J\u0007\u009b31m\u202egnp')).toBe('?[2J??31m?gnp');
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        expect(printable(text)).not.toMatch(/[\p{Cc}\p{Cf}]/u);
      }),
    );
  });
});
