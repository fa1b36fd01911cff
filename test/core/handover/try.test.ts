import { it } from 'vitest';
import { exploreAttempts } from './explore.ts';
it('x', () => {
  for (const o of [{shared:false,named:false},{shared:false,named:true},{shared:true,named:true}])
    for (const n of [1,2]) {
    const t = performance.now();
    const f = exploreAttempts(o, n);
    console.log(o, n, f.states, performance.now()-t);
    for (const [w, way] of f.broken) console.log(w, '\n   ', way.join(' > '));
  }
});
