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
  type NbdExportInfo,
  NbdHandshakeFlag,
  NbdInfo,
  NbdOption,
  NbdOptionReply,
  parseInfoRequest,
  parseMetaRequest,
  parseOptionHeader,
} from './nbd-options.ts';
import { NbdFlag, nbdViolation } from './nbd-protocol.ts';
import type { NbdServerHandler } from './nbd-server-rules.ts';

/**
 * Options of one handshake. Clients send three to six; one that is still haggling after 64 wants something
 * else.
 */
const OPTIONS_MAX = 64;

/** Our number for `base:allocation`; any will do. */
export const NBD_SERVER_CONTEXT_ID = 1;

/** One of a server's exports, as clients are told of it, and who serves it. */
export interface NbdExportOffer {
  readonly exportName: string;
  readonly sizeBytes: number;
  readonly blockBytes: NbdBlockBytes;
  /** {@link NbdFlag} bits; DF is added where structured replies were agreed. */
  readonly flags: number;
  readonly handler: NbdServerHandler;
}

/** A server's exports. Who asks for the default export (`''`) gets the one of that name, else the first. */
export type NbdExportOffers = readonly [NbdExportOffer, ...NbdExportOffer[]];

/** What the client chose. */
export interface NbdServerAgreement {
  readonly offer: NbdExportOffer;
  readonly structured: boolean;
  readonly baseAllocation: boolean;
}

/**
 * The server's half of the handshake, as a parser for an {@link Intake}. Returns `undefined` when the client
 * took its leave with ABORT. Throws `protocol` on what no client sends, and where the document leaves no
 * other answer than to hang up (EXPORT_NAME with another name).
 */
export function* serveHandshake(
  offers: NbdExportOffers,
  send: (bytes: Buffer) => void,
): Generator<Wanted, NbdServerAgreement | undefined, Buffer> {
  const known = NbdHandshakeFlag.fixedNewstyle | NbdHandshakeFlag.noZeroes;
  send(encodeGreeting(known));
  const clientFlags = (yield 4).readUInt32BE(0);
  if ((clientFlags & ~known) !== 0) throw nbdViolation(`client flags ${clientFlags}`);

  const haggling = new Haggling(offers, send);
  for (let count = 0; count < OPTIONS_MAX; count += 1) {
    const { option, length } = parseOptionHeader(yield NBD_OPTION_HEADER_BYTES);
    const data = yield length;
    if (option === NbdOption.exportName) {
      const offer = haggling.find(data.toString('utf8'));
      if (offer === undefined) throw nbdViolation('the client asks for another export');
      const padding = (clientFlags & NbdHandshakeFlag.noZeroes) !== 0 ? 0 : 124;
      send(Buffer.concat([encodeExport(haggling.infoOf(offer)), Buffer.alloc(padding)]));
      return haggling.agreementOn(offer);
    }
    const verdict = haggling.answer(option, data);
    if (verdict === 'abort') return undefined;
    if (verdict !== 'more') return haggling.agreementOn(verdict);
  }
  throw nbdViolation('the client haggles without end');
}

/** One handshake's state: what was agreed so far. */
class Haggling {
  readonly #offers: NbdExportOffers;
  readonly #send: (bytes: Buffer) => void;
  #structured = false;
  /** The export for which `base:allocation` was selected: for another one nothing is. */
  #allocationOf: NbdExportOffer | undefined;

  constructor(offers: NbdExportOffers, send: (bytes: Buffer) => void) {
    this.#offers = offers;
    this.#send = send;
  }

  agreementOn(offer: NbdExportOffer): NbdServerAgreement {
    return { offer, structured: this.#structured, baseAllocation: this.#allocationOf === offer };
  }

  /**
   * Every READ is answered with one chunk, so DF costs nothing; it may only be offered with structured
   * replies.
   */
  infoOf({ sizeBytes, flags }: NbdExportOffer): NbdExportInfo {
    return { sizeBytes, flags: flags | (this.#structured ? NbdFlag.sendDf : 0) };
  }

  /** The export that a client means by this name. */
  find(exportName: string): NbdExportOffer | undefined {
    const named = this.#offers.find((offer) => offer.exportName === exportName);
    return named ?? (exportName === '' ? this.#offers[0] : undefined);
  }

  /** Answers any option but EXPORT_NAME; after GO, with the export that is to be served. `data` is valid during the call. */
  answer(option: number, data: Buffer): 'more' | 'abort' | NbdExportOffer {
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
          for (const { exportName } of this.#offers) {
            reply(NbdOptionReply.server, encodeServerReply(exportName));
          }
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
        this.#describe(data, reply);
        return 'more';
      case NbdOption.go:
        return this.#describe(data, reply) ?? 'more';
      case NbdOption.listMetaContext:
      case NbdOption.setMetaContext:
        this.#metaContext(option, data, reply);
        return 'more';
      default:
        reply(NbdOptionReply.errUnsup);
        return 'more';
    }
  }

  /** INFO and GO. The export, if the client was told everything of it and GO may take effect. */
  #describe(data: Buffer, reply: (type: number, data?: Uint8Array) => void): NbdExportOffer | undefined {
    const request = parseInfoRequest(data);
    if (request === undefined) {
      reply(NbdOptionReply.errInvalid);
      return undefined;
    }
    const offer = this.find(request.exportName);
    if (offer === undefined) {
      reply(NbdOptionReply.errUnknown);
      return undefined;
    }
    const { blockBytes } = offer;
    const asked = request.infos.includes(NbdInfo.blockSize);
    if (!asked && blockBytes.minimum > 1) {
      reply(NbdOptionReply.errBlockSizeReqd);
      return undefined;
    }
    reply(NbdOptionReply.info, encodeInfoExport(this.infoOf(offer)));
    if (asked) reply(NbdOptionReply.info, encodeInfoBlockSize(blockBytes));
    reply(NbdOptionReply.ack);
    return offer;
  }

  #metaContext(option: number, data: Buffer, reply: (type: number, data?: Uint8Array) => void): void {
    const request = parseMetaRequest(data);
    if (!this.#structured || request === undefined) {
      reply(NbdOptionReply.errInvalid);
      return;
    }
    const offer = this.find(request.exportName);
    if (offer === undefined) {
      reply(NbdOptionReply.errUnknown);
      return;
    }
    const set = option === NbdOption.setMetaContext;
    const { queries } = request;
    const asked = set
      ? queries.includes(NBD_BASE_ALLOCATION)
      : queries.length === 0 || queries.includes('base:') || queries.includes(NBD_BASE_ALLOCATION);
    const given = asked && offer.handler.extents !== undefined;
    if (set) this.#allocationOf = given ? offer : undefined;
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
