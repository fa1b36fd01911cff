/**
 * How everything is named that we make within a QEMU (nodes, jobs, exports): so whoever attaches after an engine
 * died knows what of it is ours to take away.
 */
export const OWN_PREFIX = 'longhaul-';
