import type { Wanted } from './nbd-intake.ts';
import {
  encodeExport,
  encodeGreeting,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeMetaContext,
  encodeOptionReply,
  encodeServerReply,
  NBD_BASE_ALLOCATION,
  NBD_OPTION_HEADER_BYTES,
  NBD_STRING_BYTES_MAX,
  type NbdBlockBytes,
  NbdHandshakeFlag,
  NbdInfo,
  NbdOption,
  NbdOptionReply,
  parseInfoRequest,
  parseMetaRequest,
  parseOptionHeader,
} from './nbd-options.ts';
import { NbdFlag, nbdViolation } from './nbd-protocol.ts';

/**
 * Options of one handshake. Clients send three to six; one that is still haggling after 64 wants something
 * else.
 */
const OPTIONS_MAX = 64;

/** Our number for `base:allocation`; any will do. */
export const NBD_SERVER_CONTEXT_ID = 1;

/** What a server exports, as far as the handshake is concerned. */
export interface NbdExportOffer {
  readonly exportName: string;
  readonly sizeBytes: number;
  readonly blockBytes: NbdBlockBytes;
  /** {@link NbdFlag} bits; DF is added where structured replies were agreed. */
  readonly flags: number;
  /** `base:allocation` can be had. */
  readonly extents: boolean;
}

/** What the client chose. */
export interface NbdServerAgreement {
  readonly structured: boolean;
  readonly baseAllocation: boolean;
}

/**
 * The server's half of the handshake, as a parser for an {@link Intake}. Returns `undefined` when the client
 * took its leave with ABORT. Throws `protocol` on what no client sends, and where the document leaves no
 * other answer than to hang up (EXPORT_NAME with another name).
 */
export function* serveHandshake(
  offer: NbdExportOffer,
  send: (bytes: Buffer) => void,
): Generator<Wanted, NbdServerAgreement | undefined, Buffer> {
  const known = NbdHandshakeFlag.fixedNewstyle | NbdHandshakeFlag.noZeroes;
  send(encodeGreeting(known));
  const clientFlags = (yield 4).readUInt32BE(0);
  if ((clientFlags & ~known) !== 0) throw nbdViolation(`client flags ${clientFlags}`);

  const haggling = new Haggling(offer, send);
  for (let count = 0; count < OPTIONS_MAX; count += 1) {
    const { option, length } = parseOptionHeader(yield NBD_OPTION_HEADER_BYTES);
    const data = yield length;
    if (option === NbdOption.exportName) {
      if (!haggling.names(data.toString('utf8'))) throw nbdViolation('the client asks for another export');
      const padding = (clientFlags & NbdHandshakeFlag.noZeroes) !== 0 ? 0 : 124;
      const description = encodeExport({ sizeBytes: offer.sizeBytes, flags: haggling.flags });
      send(Buffer.concat([description, Buffer.alloc(padding)]));
      return haggling.agreement;
    }
    const verdict = haggling.answer(option, data);
    if (verdict === 'go') return haggling.agreement;
    if (verdict === 'abort') return undefined;
  }
  throw nbdViolation('the client haggles without end');
}

/** One handshake's state: what was agreed so far. */
class Haggling {
  readonly #offer: NbdExportOffer;
  readonly #send: (bytes: Buffer) => void;
  #structured = false;
  #baseAllocation = false;

  constructor(offer: NbdExportOffer, send: (bytes: Buffer) => void) {
    this.#offer = offer;
    this.#send = send;
  }

  get agreement(): NbdServerAgreement {
    return { structured: this.#structured, baseAllocation: this.#baseAllocation };
  }

  /**
   * Every READ is answered with one chunk, so DF costs nothing; it may only be offered with structured
   * replies.
   */
  get flags(): number {
    return this.#offer.flags | (this.#structured ? NbdFlag.sendDf : 0);
  }

  /** Whether a client may mean our export by this name. */
  names(exportName: string): boolean {
    return exportName === '' || exportName === this.#offer.exportName;
  }

  /** Answers any option but EXPORT_NAME. `data` is valid during the call. */
  answer(option: number, data: Buffer): 'more' | 'go' | 'abort' {
    const reply = (type: number, replyData?: Uint8Array): void => {
      this.#send(encodeOptionReply(option, type, replyData));
    };
    switch (option) {
      case NbdOption.abort:
        reply(NbdOptionReply.ack);
        return 'abort';
      case NbdOption.list:
        if (data.length > 0) reply(NbdOptionReply.errInvalid);
        else {
          reply(NbdOptionReply.server, encodeServerReply(this.#offer.exportName));
          reply(NbdOptionReply.ack);
        }
        return 'more';
      case NbdOption.structuredReply:
        if (data.length > 0) reply(NbdOptionReply.errInvalid);
        else {
          this.#structured = true;
          reply(NbdOptionReply.ack);
        }
        return 'more';
      case NbdOption.info:
      case NbdOption.go:
        return this.#describe(data, reply) && option === NbdOption.go ? 'go' : 'more';
      case NbdOption.listMetaContext:
      case NbdOption.setMetaContext:
        this.#metaContext(option, data, reply);
        return 'more';
      default:
        reply(NbdOptionReply.errUnsup);
        return 'more';
    }
  }

  /** INFO and GO. True if the client was told everything and GO may take effect. */
  #describe(data: Buffer, reply: (type: number, data?: Uint8Array) => void): boolean {
    const request = parseInfoRequest(data);
    if (request === undefined) {
      reply(NbdOptionReply.errInvalid);
      return false;
    }
    if (!this.names(request.exportName)) {
      reply(NbdOptionReply.errUnknown);
      return false;
    }
    const { blockBytes, sizeBytes } = this.#offer;
    const asked = request.infos.includes(NbdInfo.blockSize);
    if (!asked && blockBytes.minimum > 1) {
      reply(NbdOptionReply.errBlockSizeReqd);
      return false;
    }
    reply(NbdOptionReply.info, encodeInfoExport({ sizeBytes, flags: this.flags }));
    if (asked) reply(NbdOptionReply.info, encodeInfoBlockSize(blockBytes));
    reply(NbdOptionReply.ack);
    return true;
  }

  #metaContext(option: number, data: Buffer, reply: (type: number, data?: Uint8Array) => void): void {
    const request = parseMetaRequest(data);
    if (!this.#structured || request === undefined) {
      reply(NbdOptionReply.errInvalid);
      return;
    }
    if (!this.names(request.exportName)) {
      reply(NbdOptionReply.errUnknown);
      return;
    }
    const set = option === NbdOption.setMetaContext;
    const { queries } = request;
    const asked = set
      ? queries.includes(NBD_BASE_ALLOCATION)
      : queries.length === 0 || queries.includes('base:') || queries.includes(NBD_BASE_ALLOCATION);
    const given = asked && this.#offer.extents;
    if (set) this.#baseAllocation = given;
    if (given)
      reply(
        NbdOptionReply.metaContext,
        encodeMetaContext(set ? NBD_SERVER_CONTEXT_ID : 0, NBD_BASE_ALLOCATION),
      );
    reply(NbdOptionReply.ack);
  }
}

/** True for a name that can stand on the wire. */
export function isNbdExportName(name: string): boolean {
  return !name.includes('\0') && Buffer.byteLength(name) <= NBD_STRING_BYTES_MAX;
}
