import { expect, it } from 'vitest';

import { parseLabels } from './labels';

it.each([
	['', {}],
	['task=train owner=ana', { task: 'train', owner: 'ana' }],
	[' a=1,b=x=y ,, c ', { a: '1', b: 'x=y', c: '' }]
])('reads "%s"', (text, labels) => expect(parseLabels(text)).toEqual(labels));
