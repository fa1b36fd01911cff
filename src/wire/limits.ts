/** The protocol's bounds. A peer that exceeds one is cut off before anything is allocated for it. */

/** Largest payload of a data frame: 1 MiB of content and its range table. Larger frames save nothing and delay urgent ones. */
export const framePayloadBytesMax = (1 << 20) + (64 << 10);

/** Largest payload of a control message: a description of a VM with thousands of disks fits. */
export const controlBytesMax = 1 << 20;

/** Content that one item carries at most; the rest of a frame's payload is for the table. */
export const itemContentBytesMax = 1 << 20;

/** Ranges in one item at most; 24 bytes each, so that the table fits beside the content. */
export const itemRangesMax = 2048;

/** Streams of one channel: memory, device state and a few thousand disks. */
export const streamsMax = 4096;

/** Data connections of one channel. */
export const connectionsMax = 64;

/** Device state in bytes, at most: 1 GiB. It is held in memory at the destination. */
export const deviceStateBytesMax = 1 << 30;
