/** The protocol's bounds. A peer that exceeds one is cut off before anything is allocated for it. */

/** Largest payload of a data frame: 1 MiB of content and its range table. Larger frames save nothing and delay urgent ones. */
export const framePayloadBytesMax = (1 << 20) + (64 << 10);

/** Largest payload of a control message: a description of a VM with thousands of disks fits. */
export const controlBytesMax = 1 << 20;

/** Content that one item carries at most; the rest of a frame's payload is for the table. */
export const itemContentBytesMax = 1 << 20;

/** Ranges in one item at most; 24 bytes each, so that the table fits beside the content. */
export const itemRangesMax = 2048;

/**
 * What an item takes of its stream's credit at the least: an item of a few bytes costs its receiver, which has to remember it, about so
 * much too.
 */
export const itemCreditBytesMin = 1 << 10;

/**
 * How far a number may be ahead of what the peer has said is applied without a gap. The receiver remembers everything above the gap, one by
 * one, so this bounds its memory; 80,000 writes a second over a round trip of 200 ms still fit.
 */
export const numbersAheadMax = 1 << 14;

/** Streams of one channel: memory, device state and a few thousand disks. */
export const streamsMax = 4096;

/** Data connections of one channel at a time. Each has a number of its own, 1 to 65,535. */
export const connectionsMax = 256;

/** Device state in bytes, at most: 1 GiB. It is held in memory at the destination. */
export const deviceStateBytesMax = 1 << 30;

/** ... in so many pieces at most: 16 KiB each, the least that the source makes of any but the last, and as many again. */
export const deviceStatePiecesMax = 1 << 17;

/** A disk that is copied, in bytes, at most: 256 TiB, which is 2^32 regions of 64 KiB. */
export const diskBytesMax = 2 ** 48;

/** Characters of a reason in a control message. What is longer is cut where it is sent. */
export const reasonLengthMax = 4096;

/** A VM's id in a greeting, in bytes: 255 UTF-16 units, which is what registers take, are 765 in UTF-8 at most. */
export const vmIdBytesMax = 765;

/** Units that one message of an audit names at most: with their digests far less than a control message may have. */
export const auditUnitsMax = 2048;

/** A unit of an audit, in bytes, at the least and at most. */
export const auditUnitBytesMin = 4096;
export const auditUnitBytesMax = 65_536;
