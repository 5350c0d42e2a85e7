import { expect, it } from 'vitest';

import { parseSecrets, parseVolumes } from './mounts';

it('reads secrets as variables, under their own name when no other is given', () =>
	expect(parseSecrets('TOKEN=api-token, OPENAI_API_KEY')).toEqual({
		TOKEN: 'api-token',
		OPENAI_API_KEY: 'OPENAI_API_KEY'
	}));

it('reads volumes with their paths; what is left out is for the server to refuse', () =>
	expect(parseVolumes('data:/mnt/data models:/mnt/models:ro lost')).toEqual([
		{ volume: 'data', path: '/mnt/data' },
		{ volume: 'models', path: '/mnt/models', read_only: true },
		{ volume: 'lost', path: '' }
	]));
