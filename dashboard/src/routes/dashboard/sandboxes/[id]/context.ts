import type { Sandbox } from '$api/types';
import type { Live } from '$lib/live.svelte';
import { createContext } from 'svelte';

/** The sandbox that the pages below [id] are about, kept fresh by their layout. */
export const [sandboxContext, setSandboxContext] = createContext<Live<Sandbox>>();
