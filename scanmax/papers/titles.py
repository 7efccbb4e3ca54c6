"""Titles of the papers that docstrings and tables cite, by their ids."""

# Every paper that a docstring or a table of models cites, entered in the ledger or not.
TITLES = {
    "a-priori-1way-conv": "A priori compression of convolutional neural networks for wave "
    "simulators",
    "adautomix": "Adversarial AutoMixup",
    "all-cnn": "Striving for Simplicity: The All Convolutional Net",
    "affnet": "Adaptive Frequency Filters As Efficient Global Token Mixers",
    "attentive-cutmix": "Attentive CutMix: An Enhanced Data Augmentation Approach for Deep "
    "Learning Based Image Classification",
    "attsets": "Robust Attentional Aggregation of Deep Feature Sets for Multi-view 3D "
    "Reconstruction",
    "cas-vit": "CAS-ViT: Convolutional Additive Self-attention Vision Transformers for Efficient "
    "Mobile Applications",
    "cbam": "CBAM: Convolutional Block Attention Module",
    "ccnn-nd": "Modelling Long Range Dependencies in ND: From Task-Specific to a General Purpose "
    "CNN",
    "ckconv": "CKConv: Continuous Kernel Convolution For Sequential Data",
    "byte-recursive-conv-ae": "Byte-Level Recursive Convolutional Auto-Encoder for Text",
    "char-cnn": "Text Understanding from Scratch",
    "clip-kd": "CLIP-KD: An Empirical Study of Distilling CLIP Models",
    "cnn-svm": "An Architecture Combining Convolutional Neural Network (CNN) and Support Vector "
    "Machine (SVM) for Image Classification",
    "cnn-vit-collab-kd": "A Good Student is Cooperative and Reliable: CNN-Transformer "
    "Collaborative Learning for Semantic Segmentation",
    "convbert": "ConvBERT: Improving BERT with Span-based Dynamic Convolution",
    "comp-sum-losses": "Cross-Entropy Loss Functions: Theoretical Analysis and Applications",
    "condconv": "CondConv: Conditionally Parameterized Convolutions for Efficient Inference",
    "conditional-cross-attention": "Conditional Cross Attention Network for Multi-Space Embedding "
    "without Entanglement in Only a SINGLE Network",
    "convsharevit": "ConvShareViT: Enhancing Vision Transformers with Convolutional Attention "
    "Mechanisms for Free-Space Optical Accelerators",
    "context-cluster": "Image as Set of Points",
    "convfirst-block-fusion": "On the Efficiency of Convolutional Neural Networks",
    "convit-gpsa": "ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases",
    "convmixer": "Patches Are All You Need?",
    "convnext": "A ConvNet for the 2020s",
    "cross-arch-kd": "Cross-Architecture Knowledge Distillation",
    "cpp-rate-reduction-clustering": "Image Clustering via the Principle of Rate Reduction in the "
    "Age of Pretrained Models",
    "crosskd": "CrossKD: Cross-Head Knowledge Distillation for Object Detection",
    "cskd": "Cumulative Spatial Knowledge Distillation for Vision Transformers",
    "cutout": "Improved Regularization of Convolutional Neural Networks with Cutout",
    "crossvit": "CrossViT: Cross-Attention Multi-Scale Vision Transformer for Image Classification",
    "cvt": "CvT: Introducing Convolutions to Vision Transformers",
    "db-llm": "DB-LLM: Accurate Dual-Binarization for Efficient LLMs",
    "dcal": "Dual Cross-Attention Learning for Fine-Grained Visual Categorization and Object "
    "Re-Identification",
    "dbnorm-dual-inverted-softmax": "Balance Act: Mitigating Hubness in Cross-Modal Retrieval with "
    "Query and Gallery Banks",
    "dcnn-dynamic-kmax": "A Convolutional Neural Network for Modelling Sentences",
    "ddrnet": "Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of "
    "Road Scenes",
    "deit": "Training data-efficient image transformers & distillation through attention",
    "deit-lt": "DeiT-LT Distillation Strikes Back for Vision Transformer Training on Long-Tailed "
    "Datasets",
    "dexml-decoupled-softmax": "Dual-Encoders for Extreme Multi-Label Classification",
    "diffusion-rwkv": "Diffusion-RWKV: Scaling RWKV-Like Architectures for Diffusion Models",
    "equiangular-basis-vectors": "Equiangular Basis Vectors",
    "dho-dual-head": "Simple Semi-supervised Knowledge Distillation from Vision-Language Models "
    "via Dual-Head Optimization",
    "dide-distilled-dual-encoder": "Distilled Dual-Encoder Model for Vision-Language Understanding",
    "diswot": "DisWOT: Student Architecture Search for Distillation WithOut Training",
    "dhvt": "Bridging the Gap Between Vision Transformers and Convolutional Neural Networks on "
    "Small Datasets",
    "dpn": "Dual Path Networks",
    "encoder-decoder-slm": "Return of the Encoder: Maximizing Parameter Efficiency for SLMs",
    "efficientnet": "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
    "evit": "Not All Patches are What You Need: Expediting Vision Transformers via Token "
    "Reorganizations",
    "dual-patchnorm": "Dual PatchNorm",
    "evonorm": "Evolving Normalization-Activation Layers",
    "expedit-dense-vit": "Expediting Large-Scale Vision Transformer for Dense Prediction without "
    "Fine-tuning",
    "fft-conv-scaling": "Scaling Up Computer Vision Neural Networks Using Fast Fourier Transform",
    "flexconv": "FlexConv: Continuous Kernel Convolutions with Differentiable Kernel Sizes",
    "gpt4image": "GPT4Image: Can Large Pre-trained Models Help Vision Models on Perception Tasks?",
    "gencnn": "genCNN: A Convolutional Architecture for Word Sequence Prediction",
    "glmix": "Revisiting the Integration of Convolution and Attention for Vision Backbone",
    "hidden-mamba-attention": "The Hidden Attention of Mamba Models",
    "hornet": "HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions",
    "hyperspherical-normalized-softmax": "Hyperspherical embedding for novel class classification",
    "hyperzzw-terminator": "HyperZcdotZcdotW Operator Connects Slow-Fast Networks for Full Context "
    "Interaction",
    "ibn-net": "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net",
    "icl-linreg-multihead-softmax": "In-Context Linear Regression Demystified: Training Dynamics "
    "and Mechanistic Interpretability of Multi-Head Softmax Attention",
    "illama": "Adapting LLaMA Decoder to Vision Transformer",
    "imagenet21k-p-semantic-softmax": "ImageNet-21K Pretraining for the Masses",
    "inception-v3": "Rethinking the Inception Architecture for Computer Vision",
    "inceptionnext": "InceptionNeXt: When Inception Meets ConvNeXt",
    "inline-attention": "Bridging the Divide: Reconsidering Softmax and Linear Attention",
    "kan": "KAN: Kolmogorov-Arnold Networks",
    "kan-conv": "Kolmogorov-Arnold Convolutions: Design Principles and Empirical Studies",
    "kat": "Kolmogorov-Arnold Transformer",
    "kd-qat-attention": "Understanding and Improving Knowledge Distillation for Quantization-Aware "
    "Training of Large Transformer Encoders",
    "kmax-deeplab": "kMaX-DeepLab: k-means Mask Transformer",
    "large-vlm-distill-ood": "Distilling Large Vision-Language Model with Out-of-Distribution "
    "Generalizability",
    "laughing-hyena": "Laughing Hyena Distillery: Extracting Compact Recurrences From Convolutions",
    "lightconv-dynamicconv": "Pay Less Attention with Lightweight and Dynamic Convolutions",
    "lkca": "LKCA: Large Kernel Convolutional Attention",
    "long-conv-flashbutterfly": "Simple Hardware-Efficient Long Convolutions for Sequence Modeling",
    "lsnet": "LSNet: See Large, Focus Small",
    "mala-magnitude-aware-linear-attention": "Rectifying Magnitude Neglect in Linear Attention",
    "lssar-softplus-attention": "Softplus Attention with Re-weighting Boosts Length Extrapolation "
    "in Large Language Models",
    "m2mkd": "m2mKD: Module-to-Module Knowledge Distillation for Modular Transformers",
    "mamba2-ssd": "Transformers are SSMs: Generalized Models and Efficient Algorithms Through "
    "Structured State Space Duality",
    "mambamixer": "MambaMixer: Efficient Selective State Space Models with Dual Token and Channel "
    "Selection",
    "matching-networks": "Matching Networks for One Shot Learning",
    "maxim": "MAXIM: Multi-Axis MLP for Image Processing",
    "mctf": "Multi-criteria Token Fusion with One-step-ahead Attention for Efficient Vision "
    "Transformers",
    "mg-tfno": "Multi-Grid Tensorized Fourier Neural Operator for High-Resolution PDEs",
    "meal-v2": "MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet without "
    "Tricks",
    "mip-hypernetworks": "Magnitude Invariant Parametrizations Improve Hypernetwork Learning",
    "mixpro": "MixPro: Data Augmentation with MaskMix and Progressive Attention Labeling for "
    "Vision Transformer",
    "mediaug": "MediAug: Exploring Visual Augmentation in Medical Imaging",
    "moa-sparse-attention": "MoA: Mixture of Sparse Attention for Automatic Large Language Model "
    "Compression",
    "moat": "MOAT: Alternating Mobile Convolution and Attention Brings Strong Vision Models",
    "moe-parallel-folding": "MoE Parallel Folding: Heterogeneous Parallelism Mappings for "
    "Efficient Large-Scale MoE Model Training with Megatron Core",
    "mlp-kan": "MLP-KAN: Unifying Deep Representation and Function Learning",
    "mlp-mixer": "MLP-Mixer: An all-MLP Architecture for Vision",
    "moh": "MoH: Multi-Head Attention as Mixture-of-Head Attention",
    "mpcvit": "MPCViT: Searching for Accurate and Efficient MPC-Friendly Vision Transformer with "
    "Heterogeneous Attention",
    "muon-mla-moe": "Muon: Training and Trade-offs with Latent Attention and MoE",
    "mv-mr": "MV-MR: multi-views and multi-representations for self-supervised learning and "
    "knowledge distillation",
    "multimodal-kd-egocentric": "Multimodal Distillation for Egocentric Action Recognition",
    "ms-mlp": "Mixing and Shifting: Exploiting Global and Local Dependencies in Vision MLPs",
    "msvmamba": "Multi-Scale VMamba: Hierarchy in Hierarchy Visual State Space Model",
    "nas-efficient-transformer-mixed": "Neural Architecture Search on Efficient Transformers and "
    "Beyond",
    "nd-loss-kd": "Improving Knowledge Distillation via Regularizing Feature Norm and Direction",
    "next-vit": "Next-ViT: Next Generation Vision Transformer for Efficient Deployment in "
    "Realistic Industrial Scenarios",
    "parcnetv2": "ParCNetV2: Oversized Kernel with Enhanced Attention",
    "ofa-kd": "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge "
    "Distillation",
    "promptkd": "PromptKD: Unsupervised Prompt Distillation for Vision-Language Models",
    "proc-kd": "Prototype-guided Cross-task Knowledge Distillation for Large-scale Models",
    "passt-patchout": "Efficient Training of Audio Transformers with Patchout",
    "pervasive-attention": "Pervasive Attention: 2D Convolutional Neural Networks for "
    "Sequence-to-Sequence Prediction",
    "pkcam": "PKCAM: Previous Knowledge Channel Attention Module",
    "rala-ravlt": "Breaking the Low-Rank Dilemma of Linear Attention",
    "rmt-masa": "RMT: Retentive Networks Meet Vision Transformers",
    "rwkv-clip": "RWKV-CLIP: A Robust Vision-Language Representation Learner",
    "scnet-shift-conv": "Fully 1x1 Convolutional Network for Lightweight Image Super-Resolution",
    "s-kan": "Activation Space Selectable Kolmogorov-Arnold Networks",
    "scalekd": "ScaleKD: Strong Vision Transformers Could Be Excellent Teachers",
    "se-net": "Squeeze-and-Excitation Networks",
    "sgconv": "What Makes Convolutional Models Great on Long Sequence Modeling?",
    "sigma-moe-pkm": "Approximating Two-Layer Feedforward Networks for Efficient Transformers",
    "sigmoid-attention": "Theory, Analysis, and Best Practices for Sigmoid Self-Attention",
    "sit-self-slimmed": "Self-slimmed Vision Transformer",
    "ska-speaker": "Frequency and Multi-Scale Selective Kernel Attention for Speaker Verification",
    "smmix": "SMMix: Self-Motivated Image Mixing for Vision Transformers",
    "smpconv": "SMPConv: Self-moving Point Representations for Continuous Convolution",
    "smt": "Scale-Aware Modulation Meet Transformer",
    "snnk": "Scalable Neural Network Kernels",
    "soft-softmax-free": "Softmax-free Linear Transformers",
    "spanet": "SPANet: Frequency-balancing Token Mixer using Spectral Pooling Aggregation "
    "Modulation",
    "spartan": "SpaRTAN: Spatial Reinforcement Token-based Aggregation Network for Visual "
    "Recognition",
    "sparse-transformer": "Generating Long Sequences with Sparse Transformers",
    "sparsely-gated-moe": "Outrageously Large Neural Networks: The Sparsely-Gated "
    "Mixture-of-Experts Layer",
    "spd-conv": "No More Strided Convolutions or Pooling: A New CNN Building Block for "
    "Low-Resolution Images and Small Objects",
    "spectformer": "SpectFormer: Frequency and Attention is what you need in a Vision Transformer",
    "ssa-selective-self-attention": "Selective Attention: Enhancing Transformer through "
    "Principled Context Control",
    "stablemax-perpgrad": "Grokking at the Edge of Numerical Stability",
    "stm-evaluation": "Demystify Transformers & Convolutions in Modern Image Deep Networks",
    "t5": "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
    "t2t-vit": "Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet",
    "tcsr": "Incorporating Transformer Designs into Convolutions for Lightweight Image "
    "Super-Resolution",
    "teachtext": "TEACHTEXT: CrossModal Generalized Distillation for Text-Video Retrieval",
    "tensor-attention": "How to Capture Higher-order Correlations? Generalizing Matrix Softmax "
    "Attention to Kronecker Computation",
    "tgeo-kd": "Less or More From Teacher: Exploiting Trilateral Geometry For Knowledge "
    "Distillation",
    "three-things-vit": "Three things everyone should know about Vision Transformers",
    "tic-msa-conv": "TiC: Exploring Vision Transformer in Convolution",
    "tinyclip": "TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight Inheritance",
    "tl-align": "Token-Label Alignment for Vision Transformers",
    "topkld-bit-scaling": "Dissecting Bit-Level Scaling Laws in Quantizing Vision Generative "
    "Models",
    "transkd": "TransKD: Transformer Knowledge Distillation for Efficient Semantic Segmentation",
    "transnext": "TransNeXt: Robust Foveal Visual Perception for Vision Transformers",
    "two-pass-softmax": "The Two-Pass Softmax Algorithm",
    "unified-long-sequence-dmha": "A Unified View of Long-Sequence Models towards Modeling "
    "Million-Scale Dependencies",
    "uniformer": "UniFormer: Unifying Convolution and Self-attention for Visual Recognition",
    "unireplknet-journal": "Scaling Up Your Kernels: Large Kernel Design in ConvNets towards "
    "Universal Representations",
    "unireplknet": "UniRepLKNet: A Universal Perception Large-Kernel ConvNet for Audio, Video, "
    "Point Cloud, Time-Series and Image Recognition",
    "squeezebert": "SqueezeBERT: What can computer vision teach NLP about efficient neural "
    "networks?",
    "textcnn": "Convolutional Neural Networks for Sentence Classification",
    "vgg": "Very Deep Convolutional Networks for Large-Scale Image Recognition",
    "visual-transformer-vt": "Visual Transformers: Token-based Image Representation and "
    "Processing for Computer Vision",
    "vit-comer": "ViT-CoMer: Vision Transformer with Convolutional Multi-scale Feature Interaction "
    "for Dense Predictions",
    "vit-resnas": "Searching for Efficient Multi-Stage Vision Transformers",
    "vit-path-ensemble": "Revisiting Vision Transformer from the View of Path Ensemble",
    "vit-performs-convolution": "Can Vision Transformers Perform Convolution?",
    "vssd": "VSSD: Vision Mamba with Non-Causal State Space Duality",
    "wait-k": "Efficient Wait-k Models for Simultaneous Machine Translation",
    "wavemix": "WaveMix: A Resource-efficient Neural Network for Image Analysis",
    "wcord": "Wasserstein Contrastive Representation Distillation",
    "xcit": "XCiT: Cross-Covariance Image Transformers",
    "z-loss-spherical": "The Z-loss: a shift and scale invariant classification loss belonging to "
    "the Spherical Family",
    "zoology-mqar": "Zoology: Measuring and Improving Recall in Efficient Language Models",
}
