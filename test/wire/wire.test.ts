/**
 * Goal: what is encoded comes back, however the bytes are cut, and nothing that a hostile peer sends does worse than a
 * `protocol` error. Method: round trips under random cuts, and random damage, with fast-check.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MigrationError } from '../../src/errors.ts';
import { crc32c, crc32cOfChunks } from '../../src/util/checksum.ts';
import { chunksLength, joinChunks } from '../../src/util/chunks.ts';
import { encodeDigests, encodeUnits } from '../../src/wire/audit-list.ts';
import {
  encodeFrameHeader,
  FrameParser,
  type IncomingFrame,
  type OutgoingFrame,
} from '../../src/wire/frame.ts';
import {
  challengeProvenBytes,
  chooseVersion,
  decodeAnswer,
  decodeChallenge,
  decodeGreetingHead,
  decodeGreetingTail,
  encodeAnswer,
  encodeChallenge,
  encodeGreeting,
  greetingHeadBytes,
} from '../../src/wire/greeting.ts';
import { decodeItem, encodeItem, ItemDigest, type ItemRange } from '../../src/wire/item.ts';
import { reasonLengthMax } from '../../src/wire/limits.ts';
import { decodeMessage, encodeMessage, type Message } from '../../src/wire/messages.ts';
import { decodePositions, encodePositions } from '../../src/wire/positions.ts';

const bytes = (max: number) => fc.uint8Array({ minLength: 1, maxLength: max });

const frames = fc.array(
  fc.record({ stream: fc.nat(4095), number: fc.integer({ min: 1, max: 2 ** 50 }), payload: bytes(300) }),
  { minLength: 1, maxLength: 8 },
);

function outgoing({
  stream,
  number,
  payload,
}: {
  stream: number;
  number: number;
  payload: Uint8Array;
}): OutgoingFrame {
  const payloadCrc = crc32c(payload);
  return {
    type: 'data',
    class: 'bulk',
    stream,
    number,
    payload: [payload],
    payloadBytes: payload.byteLength,
    payloadCrc,
  };
}

function cut(all: Uint8Array, cuts: readonly number[]): Uint8Array[] {
  const places = [...new Set(cuts.map((place) => place % (all.byteLength + 1)))].sort((a, b) => a - b);
  const starts = [0, ...places];
  return starts.map((start, index) => all.subarray(start, places[index] ?? all.byteLength));
}

function parse(chunks: readonly Uint8Array[]): IncomingFrame[] {
  const parser = new FrameParser();
  return chunks.flatMap((chunk) => [...parser.push(chunk)]);
}

describe('frames', () => {
  it('come back whole however they are cut', () => {
    fc.assert(
      fc.property(frames, fc.array(fc.nat()), (list, cuts) => {
        const sent = list.map(outgoing);
        const all = joinChunks(
          sent.flatMap((frame, index) => [encodeFrameHeader(frame, index + 1), ...frame.payload]),
        );
        const received = parse(cut(all, cuts));
        expect(received.map((frame) => [frame.stream, frame.number, joinChunks(frame.payload)])).toEqual(
          list.map(({ stream, number, payload }) => [stream, number, payload]),
        );
      }),
    );
  });

  it('are refused when any byte was changed', () => {
    fc.assert(
      fc.property(frames, fc.nat(), fc.integer({ min: 1, max: 255 }), (list, place, flip) => {
        const sent = list.map(outgoing);
        const all = joinChunks(
          sent.flatMap((frame, index) => [encodeFrameHeader(frame, index + 1), ...frame.payload]),
        ).slice();
        const at = place % all.byteLength;
        all[at] = (all[at] ?? 0) ^ flip;
        expect(() => parse([all])).toThrow(MigrationError);
      }),
    );
  });

  it('are refused before a length beyond the limit is believed', () => {
    const header = encodeFrameHeader(
      { ...outgoing({ stream: 1, number: 1, payload: new Uint8Array(1) }), payloadBytes: 2 ** 31 },
      1,
    );
    expect(() => parse([header])).toThrow(/more than is allowed/);
  });

  it('are refused when one was left out', () => {
    const frame = outgoing({ stream: 1, number: 1, payload: new Uint8Array(4) });
    expect(() => parse([encodeFrameHeader(frame, 2)])).toThrow(/out of sequence/);
  });
});

const range = fc.record({
  space: fc.nat(65535),
  offset: fc.nat(2 ** 40),
  content: fc.oneof(fc.constant(undefined), bytes(200)),
  zeroLength: fc.integer({ min: 1, max: 2 ** 40 }),
});

describe('items', () => {
  it('come back however their payload is cut', () => {
    fc.assert(
      fc.property(fc.array(range, { minLength: 1, maxLength: 6 }), fc.array(fc.nat()), (specs, cuts) => {
        const ranges: ItemRange[] = specs.map(({ space, offset, content, zeroLength }) =>
          content === undefined
            ? { space, offset, length: zeroLength, content: 'zero' }
            : { space, offset, length: content.byteLength, content: [content] },
        );
        const payload = joinChunks(encodeItem(ranges));
        const pieces = cut(payload, cuts).filter((piece) => piece.byteLength > 0);
        const decoded = decodeItem(pieces, payload.byteLength);
        const plain = (list: readonly ItemRange[]) =>
          list.map((item) => ({
            ...item,
            content: item.content === 'zero' ? 'zero' : [...joinChunks(item.content)],
          }));
        expect(plain(decoded)).toEqual(plain(ranges));
      }),
    );
  });

  it('that are garbage are a protocol error and nothing else', () => {
    fc.assert(
      fc.property(bytes(200), (garbage) => {
        try {
          const ranges = decodeItem([garbage], garbage.byteLength);
          const content = ranges.reduce(
            (sum, { content }) => sum + (content === 'zero' ? 0 : chunksLength(content)),
            0,
          );
          expect(content).toBeLessThanOrEqual(garbage.byteLength);
        } catch (error) {
          expect(error).toMatchObject({ code: 'protocol' });
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('sum up to the same digest in any order, and to another if one is missing, doubled, renumbered or changed', () => {
    const item = fc.record({ number: fc.nat(2 ** 40), crc: fc.nat(2 ** 32 - 1) });
    const list = fc.uniqueArray(item, { minLength: 2, maxLength: 20, selector: ({ number }) => number });
    const digestOf = (items: readonly { number: number; crc: number }[]) => {
      const digest = new ItemDigest(42);
      for (const { number, crc } of items) digest.add(number, crc);
      return digest.toString();
    };
    fc.assert(
      fc.property(list, fc.integer({ min: 1, max: 2 ** 32 - 1 }), (items, change) => {
        const [first, ...rest] = items;
        if (first === undefined) return;
        const whole = digestOf(items);
        expect(digestOf([...items].reverse())).toBe(whole);
        expect(digestOf(rest)).not.toBe(whole);
        expect(digestOf([...items, first])).not.toBe(whole);
        expect(digestOf([{ ...first, number: first.number + 2 ** 41 }, ...rest])).not.toBe(whole);
        expect(digestOf([{ ...first, crc: (first.crc ^ change) >>> 0 }, ...rest])).not.toBe(whole);
      }),
    );
  });
});

describe('greetings', () => {
  const session = new Uint8Array(16).fill(7);
  const nonce = new Uint8Array(32).fill(8);
  const version = fc.nat(65535);
  const exactly = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
  const decode = (bytes: Uint8Array) => {
    const { tailBytes, ...head } = decodeGreetingHead(bytes.subarray(0, greetingHeadBytes));
    expect(bytes.byteLength).toBe(greetingHeadBytes + tailBytes);
    return { ...head, ...decodeGreetingTail(bytes.subarray(greetingHeadBytes)) };
  };

  it('come back', () => {
    const what = fc.oneof(
      fc.record({ purpose: fc.constant('data' as const), lane: fc.integer({ min: 1, max: 65535 }) }),
      fc.record({
        purpose: fc.constantFrom('control' as const, 'question' as const, 'resume' as const),
        lane: fc.constant(0),
      }),
    );
    const who = fc.record({
      versionMin: version,
      versionMax: version,
      session: exactly(16),
      nonce: exactly(32),
      vmId: fc.oneof(
        fc.constantFrom('', 'web-1', 'b\u00fccher', '\ufeffvm', '\u20ac'.repeat(255)),
        fc.string({ unit: 'grapheme', maxLength: 60 }),
      ),
    });
    fc.assert(
      fc.property(what, who, (one, other) => {
        expect(decode(encodeGreeting({ ...one, ...other }))).toEqual({ ...one, ...other });
      }),
    );
  });

  it('are answered by what comes back too', () => {
    const answers = fc.record({
      version,
      status: fc.constantFrom('welcome', 'version', 'refused', 'challenge'),
      session: exactly(16),
    });
    fc.assert(
      fc.property(answers, (answer) => {
        expect(decodeAnswer(encodeAnswer(answer))).toEqual(answer);
      }),
    );
    const challenges = fc.record({ versionMin: version, versionMax: version, nonce: exactly(32) });
    fc.assert(
      fc.property(challenges, exactly(32), (challenge, proof) => {
        let proven: Uint8Array | undefined;
        const bytes = encodeChallenge(challenge, (covered) => {
          proven = covered.slice();
          return proof;
        });
        expect(decodeChallenge(bytes)).toEqual({ ...challenge, proof });
        expect(proven).toEqual(bytes.subarray(0, challengeProvenBytes));
      }),
    );
  });

  it('that were changed in any byte are refused, and so is what answers them', () => {
    const greeting = { versionMin: 1, versionMax: 1, purpose: 'control', lane: 0, session, nonce } as const;
    const answer = encodeAnswer({ version: 1, status: 'challenge', session });
    const challenge = encodeChallenge({ versionMin: 1, versionMax: 1, nonce }, () => nonce);
    for (const [good, decoder] of [
      [encodeGreeting({ ...greeting, vmId: 'web-1' }), decode],
      [answer, decodeAnswer],
      [challenge, decodeChallenge],
    ] as const) {
      for (let at = 0; at < good.byteLength; at++) {
        const bad = good.slice();
        bad[at] = (bad[at] ?? 0) ^ 0x10;
        expect(() => decoder(bad)).toThrow(expect.objectContaining({ code: 'protocol' }));
      }
    }
  });

  it('of any length that are not whole are refused', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 120 }), (garbage) => {
        for (const decoder of [decodeGreetingHead, decodeGreetingTail, decodeAnswer, decodeChallenge]) {
          expect(() => decoder(garbage)).toThrow(expect.objectContaining({ code: 'protocol' }));
        }
      }),
    );
  });

  it('are for a VM whose id is bounded, also on the wire', () => {
    const greeting = { versionMin: 1, versionMax: 1, purpose: 'control', lane: 0, session, nonce } as const;
    expect(() => encodeGreeting({ ...greeting, vmId: 'x'.repeat(766) })).toThrow('765 bytes');
    const head = encodeGreeting({ ...greeting, vmId: '' }).slice(0, greetingHeadBytes);
    const view = new DataView(head.buffer);
    view.setUint16(32, 766);
    view.setUint32(36, crc32c(head.subarray(0, 36)));
    expect(() => decodeGreetingHead(head)).toThrow('makes no sense');
  });

  it('settle on the highest version in common, or on none', () => {
    expect(chooseVersion({ versionMin: 1, versionMax: 9 })).toBe(1);
    expect(chooseVersion({ versionMin: 2, versionMax: 9 })).toBeUndefined();
    expect(chooseVersion({ versionMin: 0, versionMax: 0 })).toBeUndefined();
    const range = fc
      .tuple(fc.integer({ min: 1, max: 9 }), fc.nat(9))
      .map(([versionMin, more]) => ({ versionMin, versionMax: versionMin + more }));
    fc.assert(
      fc.property(range, range, (one, other) => {
        const all = Array.from({ length: 20 }, (_, index) => index);
        const spoken =
          ({ versionMin, versionMax }: typeof one) =>
          (candidate: number) =>
            candidate >= versionMin && candidate <= versionMax;
        const common = all.filter(spoken(one)).filter(spoken(other)).at(-1);
        expect(chooseVersion(one, other)).toBe(common);
        expect(chooseVersion(other, one)).toBe(common);
      }),
    );
  });
});

describe('control messages', () => {
  const messages: readonly Message[] = [
    {
      type: 'prepare',
      vm: {
        vmId: 'a',
        name: 'A',
        machine: 'pc',
        cpus: 2,
        memory: [{ name: 'ram', sizeBytes: 8192, pageBytes: 4096 }],
        disks: [{ id: 'disk0', sizeBytes: 1000, blockBytes: 512, readOnly: false }],
        deviceStateFormat: 'x',
      },
      disks: { disk0: 'copy' },
      seed: 'compare',
      memory: 'copy',
      handover: 'one-flight',
      audit: 'sample',
      highest: 3,
      digestKey: 2 ** 32 - 1,
      decideMsMax: 1000.5,
      silenceMsMax: 5000,
      outageMsMax: 0,
    },
    {
      type: 'final',
      attempt: 100,
      streams: [{ stream: 2, last: 9, digest: '0123456789abcdef' }],
      stateBytes: 17,
      unchangedBytes: 2 ** 40,
      run: true,
    },
    { type: 'ready', attempt: 1 },
    {
      type: 'audit',
      attempt: 1,
      part: 2,
      last: true,
      of: 2 ** 40,
      units: encodeUnits([{ drawn: true, stream: 1, space: 0, unitBytes: 4096, units: [1, 9] }]),
      digests: encodeDigests([new Uint8Array(8), new Uint8Array(8)], 4),
    },
    { type: 'audited', attempt: 1, part: 2, units: 2048, bytes: 2 ** 27, drawn: 0, differing: '' },
    { type: 'notReady', attempt: 2, code: 'device-state', reason: 'no' },
    { type: 'retreat', attempt: 3, stateLast: 0, code: 'stun-timeout', reason: '' },
    { type: 'rehearsed' },
    { type: 'probe' },
    { type: 'decided', value: 'declined', reason: 'no' },
    { type: 'answer', value: 'pending' },
  ];

  it('come back', () => {
    for (const message of messages) expect(decodeMessage(encodeMessage(message))).toEqual(message);
  });

  it('with any field gone or of another type are a protocol error', () => {
    const strange = [undefined, null, -1, 1.5, 1e300, 'x'.repeat(70_000), [], {}, true];
    const mutants = (value: unknown): unknown[] => {
      if (typeof value !== 'object' || value === null) return [];
      return Object.entries(value).flatMap(([key, inner]) => {
        const replace = (by: unknown) =>
          Array.isArray(value)
            ? value.map((item, at) => (`${at}` === key ? by : item))
            : { ...value, [key]: by };
        return [...strange.map(replace), ...mutants(inner).map(replace)];
      });
    };
    for (const message of messages) {
      for (const mutant of mutants(message)) {
        try {
          decodeMessage(new TextEncoder().encode(JSON.stringify(mutant)));
        } catch (error) {
          expect(error).toMatchObject({ code: 'protocol' });
        }
      }
    }
  });

  it('whose reason is too long for the peer are cut, and still told', () => {
    const reason = 'x'.repeat(1 << 20);
    for (const message of [
      { type: 'decided', value: 'declined', reason },
      { type: 'abort', code: 'internal', reason },
      { type: 'failed', code: 'internal', reason },
    ] as const) {
      const told = decodeMessage(encodeMessage(message));
      expect(told).toEqual({ ...message, reason: 'x'.repeat(reasonLengthMax) });
    }
  });

  it('that are too long for the peer are refused where they are sent', () => {
    const [prepare] = messages;
    if (prepare?.type !== 'prepare') throw new Error('the first one describes a VM');
    const disks = Array.from({ length: 4000 }, (_, index) => ({
      id: `${index}`.padStart(255, '0'),
      sizeBytes: 1,
      blockBytes: 1,
      readOnly: false,
    }));
    const large = { ...prepare, vm: { ...prepare.vm, disks } };
    expect(() => encodeMessage(large)).toThrow(expect.objectContaining({ code: 'incompatible' }));
  });

  it('name only phases that a source can begin', () => {
    const phase = (name: string) => new TextEncoder().encode(JSON.stringify({ type: 'phase', phase: name }));
    for (const name of ['copyDisks', 'copyMemory', 'stun', 'verify', 'handover', 'release']) {
      expect(decodeMessage(phase(name))).toEqual({ type: 'phase', phase: name });
    }
    for (const name of ['idle', 'connect', 'prepare', 'done']) {
      expect(() => decodeMessage(phase(name))).toThrow(MigrationError);
    }
  });

  it('of a type named like a property of every object are refused', () => {
    for (const type of ['constructor', '__proto__', 'toString']) {
      expect(() => decodeMessage(new TextEncoder().encode(JSON.stringify({ type })))).toThrow(/unknown/);
    }
  });
});

describe('positions', () => {
  it('come back, and garbage is a protocol error', () => {
    const positions = {
      control: 2 ** 40,
      lanes: [{ lane: 3, sequence: 4_294_967_295 }],
      streams: [
        {
          stream: 2,
          applied: 2 ** 45,
          creditBytes: 2 ** 50,
          arrived: 2 ** 46,
          begun: 2 ** 44,
          left: 7,
        },
      ],
      returned: [{ stream: 4095, bytes: 2 ** 50 }],
    };
    expect(decodePositions(encodePositions(positions))).toEqual(positions);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 120 }), (garbage) => {
        try {
          decodePositions(garbage);
        } catch (error) {
          expect(error).toMatchObject({ code: 'protocol' });
        }
      }),
    );
  });
});

describe('checksums', () => {
  it('are CRC-32C, over one chunk or several', () => {
    const check = new TextEncoder().encode('123456789');
    expect(crc32c(check)).toBe(0xe3069283);
    expect(crc32cOfChunks([check.subarray(0, 4), check.subarray(4)])).toBe(0xe3069283);
  });
});
