import { expect, it } from 'vitest';

import { megabytes } from './size';

it.each([
	[512, '512 MB'],
	[1024, '1 GB'],
	[1536, '1.5 GB'],
	[5120, '5 GB'],
	[1_048_576, '1 TB'],
	[2_097_152_000, '2000 TB']
])('says %d MB as %s', (count, text) => expect(megabytes(count)).toBe(text));
