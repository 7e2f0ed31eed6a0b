"""mplug-mini made whole: fusion encoder, matching head and decoder learn on towers that stand still.

    whole.py       the retrieval half grows its other parts; where they start
    tokens.py      image_tokens of every view, made once and kept outside the tree
    config.py      what a stage is made of, and the three stages as recipes
    reading.py     which pictures, texts and questions a step sees
    matching.py    does this text fit this picture (ITM), and masked words (MLM)
    writing.py     captions and answers by cross-entropy
    rewarding.py   captions by their CIDEr (SCST)
    measuring.py   what is measured on `dev`
    experiment.py  these as one `Experiment`

The stages differ in their configuration alone; each starts from the folder that the one before leaves:

    (a) contrast       recipe ``mplug-mini``
    (b) matching       fusion encoder and head, ITM and MLM, one hard negative a side
    (c) writing        decoder, captions in two languages and answers; (b)'s losses go on, so that the fusion encoder,
                       which answers need, may learn from them and still rank
    (d) rewarding      CIDEr on captions; answers go on, since the decoder is theirs too

What a step costs, in millions of multiply-adds, D = 384, inner width 1536, N = 50 image tokens, L = 14 text tokens
(what captions have, ends included; questions have 10):

    asymmetric layer       4LDD + 2LLD (attention)  + 2LDD + 2NDD + 2LND (cross)  + 2L·1536·D    =  44
    connected layer        4MDD + 2MMD + 2M·1536·D, M = N + L                                    = 116
    text encoder, 6 layers                                                                       = 151
    fusion encoder, A A C A                                                                      = 248
    decoder, 4 layers, for one text; and 59 for a picture's keys and values, made once for all   = 118
    output matrix, 14,500 rows                                                                   =  78

    (b) a pair: 4 passes of the fusion encoder, forward and back (x3), 2 of the frozen text encoder     3,280
    (c) a picture with 5 English and 2 Chinese captions: the decoder x3, the frozen output matrix x2    3,650
        a question: text encoder, fusion x3, decoder with 60 rows of memory x3                          1,100
    (d) a picture with 5 beams: 12 steps of decoding, 5 x 14 MMAC each, then 5 texts as in (c)          3,500

At 50 billion a second 55 minutes are 165,000 billion: 50,000 pairs for (b); 18,000 pictures, 48,000 questions and
14,000 pairs for (c); 24,000 pictures, 36,000 questions and 10,000 pairs for (d). In bfloat16 one thread
of a processor with AVX512-BF16 alone did a step of (c), 210 billion, in 2.9 to 3.3 seconds, others at work beside it;
the recipes (77,000 pairs; 29,000 pictures, 77,000 questions; 31,000 rewarded pictures) count on two doing it in 2.3.
"""
